"""Covers show the style, sometimes the category, and depend only on the seed."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from mmctr_pipeline.sample.catalogue import CATEGORIES, STYLES, draw_catalogue
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.covers import draw_cover, write_covers

CONFIG = SampleConfig(n_items=400, missing_image_share=0.05, corrupt_image_share=0.01)


def _pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize((48, 48)), dtype=float)


@pytest.mark.parametrize("style", range(len(STYLES)))
def test_a_cover_is_a_small_jpeg(style: int) -> None:
    content = draw_cover(0, style, np.random.default_rng(style))
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert all(72 <= side <= 160 for side in image.size)
    assert len(content) < 30_000


def test_equal_seeds_give_equal_files_and_different_seeds_different_ones() -> None:
    one, same, other = (draw_cover(1, 3, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert one == same
    assert one != other


def test_colours_and_texture_show_the_style_and_not_the_category() -> None:
    rng = np.random.default_rng(0)
    style, category = np.arange(360) % len(STYLES), rng.integers(len(CATEGORIES), size=360)
    features = []
    for s, c in zip(style, category, strict=True):
        pixels = _pixels(draw_cover(int(c), int(s), rng))
        texture = [np.abs(np.diff(pixels, axis=axis)).mean() for axis in (0, 1)]
        features.append([*pixels.mean(axis=(0, 1)), *pixels.std(axis=(0, 1)), *texture])
    features_NF = np.array(features) / np.std(features, axis=0)
    in_train = np.arange(360) // len(STYLES) % 2 == 0  # both halves have all styles

    def accuracy(kind: np.ndarray) -> float:
        """Return how often the class of the nearest mean is right on the other half.

        The means are those of the classes in the train half.
        """
        means = np.stack([features_NF[in_train & (kind == k)].mean(axis=0) for k in range(6)])
        distance = ((features_NF[~in_train, None] - means) ** 2).sum(axis=2)
        return float(np.mean(distance.argmin(axis=1) == kind[~in_train]))

    assert accuracy(style) > 0.9
    assert accuracy(category) < 0.35


def test_some_files_are_missing_and_some_cannot_be_decoded(tmp_path: Path) -> None:
    numbers = write_covers(tmp_path, draw_catalogue(CONFIG), CONFIG)
    missing, corrupt = numbers["missing_image_ids"], numbers["corrupt_image_ids"]
    assert (len(missing), len(corrupt), numbers["n_images"]) == (20, 4, 376)
    assert not set(missing) & set(corrupt)
    on_disk = {int(path.stem) for path in tmp_path.glob("*.jpg")}
    assert on_disk == set(range(1, 401)) - set(missing)
    unreadable = set()
    for item_id in on_disk:
        try:
            with Image.open(tmp_path / f"{item_id}.jpg") as image:
                image.load()
        except (UnidentifiedImageError, OSError):
            unreadable.add(item_id)
    assert unreadable == set(corrupt)
    sizes = [(tmp_path / f"{item_id}.jpg").stat().st_size for item_id in corrupt]
    assert min(sizes) == 0
    assert any(b"<html>" in (tmp_path / f"{i}.jpg").read_bytes() for i in corrupt)
