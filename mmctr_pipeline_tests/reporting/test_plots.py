"""Plots are small PNG pictures that show their data."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmctr_pipeline.reporting.plots import (
    gradient_curve,
    norm_histogram,
    pca_spectrum,
    reliability,
    small_picture,
    title_lengths,
    training_curve,
    vector_map,
)

RANDOM = np.random.default_rng(0)
BLUE, ORANGE = (31, 119, 180), (255, 127, 14)
CLOUD = RANDOM.normal(size=(2000, 8)).astype(np.float32)
FULL_SIZE = RANDOM.normal(size=(91_717, 16)).astype(np.float32)
THIRDS = {name: np.arange(91_717) % 3 == third for third, name in enumerate("abc")}


def history(values: Sequence[float], metric: str = "valid_auc", parts: int = 1) -> dict[str, Any]:
    """Return a training history with `values` of the deciding metric, `parts` in each epoch."""
    records = [
        {"epoch": (n + 1) / parts, "train_loss": 0.6 - n / 1000, "metrics": {metric: value}}
        for n, value in enumerate(values)
    ]
    best = (int(np.argmax(values)) + 1) / parts
    return {"epochs": records, "metric": metric, "best_epoch": best}


def calibrated(shift: float = 0.0, n_bins: int = 15) -> dict[str, Any]:
    """Return a calibration whose shares of clicks are `shift` above the probabilities."""
    predicted = (np.arange(n_bins) + 0.5) / n_bins
    bins = [
        {"mean_probability": p, "share_positive": min(p + shift, 1.0), "n_rows": 667}
        for p in predicted.tolist()
    ]
    return {"error": shift, "bins": bins}


GRADIENTS = {
    "epochs": [
        {
            "epoch": n + 1,
            "learning_rate": 2e-3 / (n + 1),
            "gradient_norm": 0.5 / (n + 1),
            "largest_gradient_norm": 3.0,
        }
        for n in range(5)
    ]
}

PLOTS = {
    "gradients": lambda: gradient_curve(GRADIENTS),
    "gradients of one epoch": lambda: gradient_curve({"epochs": GRADIENTS["epochs"][:1]}),
    "gradients that were not recorded": lambda: gradient_curve(history([0.7, 0.8])),
    "training curve": lambda: training_curve(history([0.7, 0.8, 0.79])),
    "training curve of one epoch": lambda: training_curve(history([0.7])),
    "training curve by half epochs": lambda: training_curve(
        history([0.7, 0.8, 0.79, 0.78], parts=2)
    ),
    "training curve of a long fusion": lambda: training_curve(
        history(RANDOM.random(200), "held_out_loss")
    ),
    "reliability": lambda: reliability(calibrated()),
    "reliability of one bin": lambda: reliability(calibrated(n_bins=1)),
    "spectrum": lambda: pca_spectrum(np.exp(-np.arange(128) / 20) / 21),
    "norms": lambda: norm_histogram({"image": RANDOM.normal(10, 1, 5000), "text": np.ones(50)}),
    "no norms": lambda: norm_histogram({"text": np.zeros(0)}),
    "title lengths": lambda: title_lengths(RANDOM.poisson(25, 91_717), 256),
    "titles cut off": lambda: title_lengths(RANDOM.poisson(60, 5000), 64),
    "one title": lambda: title_lengths(np.array([3]), 256),
    "no titles": lambda: title_lengths(np.zeros(0, int), 256),
    "map at full size": lambda: vector_map(FULL_SIZE, np.ones(91_717, bool), THIRDS),
    "map of one item": lambda: vector_map(CLOUD[:1], np.ones(1, bool), {"all": np.ones(1, bool)}),
    "map of nothing": lambda: vector_map(CLOUD[:3], np.zeros(3, bool), {}),
    "map of one dimension": lambda: vector_map(
        CLOUD[:, :1], np.ones(2000, bool), {"all": np.ones(2000, bool)}
    ),
}


def find_pixels(content: bytes, colour: tuple[int, int, int]) -> np.ndarray:
    """Return row and column `(P, 2)` of the pixels of nearly this colour."""
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return np.argwhere(np.abs(pixels - colour).max(axis=2) < 60)


def find_dots(content: bytes, colour: tuple[int, int, int]) -> np.ndarray:
    """Return the pixels of a map's dots of this colour, without those of the legend."""
    positions_P2 = find_pixels(content, colour)
    return positions_P2[positions_P2[:, 0] > 70]


@pytest.mark.parametrize("name", PLOTS)
def test_plots_are_small_png_images(name: str) -> None:
    content = PLOTS[name]()
    assert len(content) <= 50_000
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert 500 <= image.width <= 900
        shades = np.asarray(image.convert("L"))
    assert shades.min() < 128 < shades.max(), "the canvas is empty"


def test_plots_depend_on_their_data() -> None:
    assert pca_spectrum(np.array([0.6, 0.3])) != pca_spectrum(np.array([0.6, 0.1]))
    assert training_curve(history([0.7])) == training_curve(history([0.7]))
    assert training_curve(history([0.7])) != training_curve(history([0.7], "recall"))
    assert training_curve(history([0.7, 0.8])) != training_curve(history([0.7, 0.8], parts=2))


def test_calibrated_probabilities_are_on_the_diagonal() -> None:
    calibrated_dots, high = (
        find_pixels(reliability(calibrated(shift)), BLUE) for shift in (0.0, 0.2)
    )
    middle = (calibrated_dots.min(axis=0) + calibrated_dots.max(axis=0)) / 2
    rows, columns = (calibrated_dots - middle).T
    # Shares rise with the probabilities. As rows count downward, the correlation is negative.
    assert np.corrcoef(rows, columns)[0, 1] < -0.99
    # A shift of 0.2 raises the dots by one fifth. The left half is compared, as shares above 1 are
    # cut off.
    row, row_high = (np.median(dots[dots[:, 1] < middle[1], 0]) for dots in (calibrated_dots, high))
    assert 0.1 < (row - row_high) / np.ptp(calibrated_dots[:, 0]) < 0.3


def test_a_line_marks_the_limit_only_if_titles_are_cut() -> None:
    n_tokens = np.array([5, 6, 7, 8, 60])
    assert len(find_pixels(title_lengths(n_tokens, 59), ORANGE)) > 100
    assert len(find_pixels(title_lengths(n_tokens, 60), ORANGE)) == 0


def test_the_longest_titles_share_the_last_bar() -> None:
    # The last bar is at 30. A longer title must be counted there, and the axis must not grow.
    bars = [
        find_pixels(title_lengths(np.array([4] * 90 + [longest]), 20), BLUE) for longest in (30, 99)
    ]
    assert np.array_equal(bars[0], bars[1])


def test_the_map_shows_each_kind_and_no_item_without_a_vector() -> None:
    even = np.arange(2000) % 2 == 0
    everything = np.ones(2000, bool)
    content = vector_map(CLOUD, everything, {"both": even, "title": ~even})
    assert len(find_dots(content, BLUE)) > 500
    assert len(find_dots(content, ORANGE)) > 500
    without_even = vector_map(CLOUD, ~even, {"both": even})
    assert len(find_dots(without_even, BLUE)) == 0


def test_the_rarest_kind_is_on_top() -> None:
    # All dots are at two points, so that only the top dot of each is visible.
    right = np.arange(2000) >= 1000
    vectors = np.stack([np.where(right, 1, -1), np.zeros(2000)], axis=1).astype(np.float32)

    def n_common_pixels(rare: np.ndarray) -> int:
        kinds = {"rare": rare, "common": right & ~rare, "left": ~right & ~rare}
        return len(find_dots(vector_map(vectors, np.ones(2000, bool), kinds), ORANGE))

    # First all rare items are on the left, then all on the right, where they hide the common ones.
    assert n_common_pixels(rare=np.arange(2000) < 50) > 3
    assert n_common_pixels(rare=np.arange(2000) >= 1950) == 0


def test_the_first_axis_has_the_largest_variance() -> None:
    vectors = np.zeros((2000, 8), np.float32)
    vectors[:, [5, 7]] = CLOUD[:, :1]
    vectors[:, 2] = CLOUD[:, 1] / 10
    dots = find_dots(vector_map(vectors, np.ones(2000, bool), {"all": np.ones(2000, bool)}), BLUE)
    height, width = np.ptp(dots, axis=0)
    # The standard deviations are sqrt(2) and 0.1, on equal scales. Each dot adds its own size.
    assert width / 20 < height < width / 8


def test_a_disc_of_items_stays_a_disc_on_the_map() -> None:
    angle = np.linspace(0, 2 * np.pi, 2000)
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    everything = np.ones(2000, bool)
    height, width = np.ptp(
        find_dots(vector_map(vectors, everything, {"all": everything}), BLUE), axis=0
    )
    assert height == pytest.approx(width, rel=0.05)


def test_one_outlier_does_not_shrink_the_map() -> None:
    everything = np.ones(2000, bool)
    vectors = CLOUD.copy()
    vectors[7] *= 1000
    plain, far = (
        np.ptp(find_dots(vector_map(cloud, everything, {"all": everything}), BLUE), axis=0)
        for cloud in (CLOUD, vectors)
    )
    assert (far > 0.6 * plain).all()


def test_the_map_leaves_out_non_finite_vectors() -> None:
    vectors = CLOUD.copy()
    vectors[7, 3] = np.nan
    everything = np.ones(2000, bool)
    others = np.arange(2000) != 7
    kinds = {"all": everything}
    assert vector_map(vectors, everything, kinds) == vector_map(CLOUD, others, kinds)


def test_masks_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2000 vectors but the mask 'both' is \(5,\)"):
        vector_map(CLOUD, np.ones(2000, bool), {"both": np.ones(5, bool)})


@pytest.mark.parametrize("size", [(450, 350), (1, 45_000), (1000, 40)])
def test_a_picture_of_noise_shrinks_below_the_limit(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    content = small_picture(Image.fromarray(noise), 10_000)
    assert len(content) <= 10_000
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        assert image.width <= size[0]


def test_a_picture_below_the_limit_is_unchanged() -> None:
    # These pixels have more colours than a palette can hold.
    pixels = np.arange(40 * 40 * 3).reshape(40, 40, 3).astype(np.uint8)
    pixels[..., 0] = np.arange(40)[:, None] * 6
    with Image.open(io.BytesIO(small_picture(Image.fromarray(pixels)))) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_an_impossible_size_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="no PNG has at most 10 bytes"):
        small_picture(Image.new("RGB", (9, 9)), 10)


def test_gradient_norms_and_learning_rates_are_drawn() -> None:
    content = gradient_curve(GRADIENTS)
    assert len(find_pixels(content, BLUE)) > 100
    rates = find_pixels(content, ORANGE)
    in_plot = rates[(rates[:, 0] > 40) & (rates[:, 1] < 480)]
    # The rate falls from left to right, and a lower point has a larger row number.
    left, right = in_plot[in_plot[:, 1] < 150], in_plot[in_plot[:, 1] > 350]
    assert left[:, 0].min() < right[:, 0].min()
