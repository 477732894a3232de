import io

import numpy as np
import pytest
from PIL import Image

from mmctr_pipeline.evaluation.plots import norm_histogram, pca_spectrum, training_curve

RANDOM = np.random.default_rng(0)
PLOTS = {
    "training curve": lambda: training_curve([0.6, 0.5, 0.4], [0.7, 0.8, 0.79], best_epoch=2),
    "training curve of one epoch": lambda: training_curve([0.6], [0.7]),
    "spectrum": lambda: pca_spectrum(np.exp(-np.arange(128) / 20) / 21),
    "norms": lambda: norm_histogram({"image": RANDOM.normal(10, 1, 5000), "text": np.ones(50)}),
    "no norms": lambda: norm_histogram({"text": np.zeros(0)}),
}


@pytest.mark.parametrize("name", PLOTS)
def test_plots_are_small_png_images(name: str) -> None:
    content = PLOTS[name]()
    assert len(content) <= 40_000
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert image.width > 300
        shades = np.asarray(image.convert("L"))
    assert shades.min() < 128 < shades.max(), "an empty canvas"


def test_plots_differ_with_their_data() -> None:
    assert pca_spectrum(np.array([0.6, 0.3])) != pca_spectrum(np.array([0.6, 0.1]))
    assert training_curve([0.6], [0.7]) == training_curve([0.6], [0.7])


def test_losses_and_metrics_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 losses but 1 AUCs"):
        training_curve([0.6, 0.5], [0.7])
