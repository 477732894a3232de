"""Given vectors are noisy views of the categories and styles of the items."""

from typing import Literal

import numpy as np
import pytest

from mmctr_pipeline.sample.catalogue import Catalogue, draw_catalogue
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.given import GivenVectors

CONFIG = SampleConfig(n_items=600)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return draw_catalogue(CONFIG)


def _all_vectors(
    catalogue: Catalogue, view: Literal["text", "image", "item"], seed: int = CONFIG.seed
) -> np.ndarray:
    return GivenVectors(catalogue, seed, view).next(slice(0, len(catalogue)))


def _nearest_mean_accuracy(vectors: np.ndarray, kind: np.ndarray) -> float:
    """Return how often the class of the nearest mean is right.

    The means are those of the classes in one half of the items; the other half is tested.
    """
    means = np.stack([vectors[::2][kind[::2] == k].mean(axis=0) for k in range(kind.max() + 1)])
    distance = ((vectors[1::2, None] - means) ** 2).sum(axis=2)
    return float(np.mean(distance.argmin(axis=1) == kind[1::2]))


def test_each_view_shows_its_own_attributes(catalogue: Catalogue) -> None:
    text, image, item = (_all_vectors(catalogue, view) for view in ("text", "image", "item"))
    assert (text.shape, image.shape, item.shape) == ((600, 768), (600, 1024), (600, 128))
    assert text.dtype == image.dtype == item.dtype == np.float32
    assert _nearest_mean_accuracy(text, catalogue.category) > 0.9
    assert _nearest_mean_accuracy(text, catalogue.style) < 0.3
    assert _nearest_mean_accuracy(image, catalogue.style) > 0.9
    assert _nearest_mean_accuracy(image, catalogue.category) < 0.3
    assert _nearest_mean_accuracy(item, catalogue.category) > 0.9
    assert _nearest_mean_accuracy(item, catalogue.style) > 0.9


def test_vectors_drawn_in_slices_equal_those_drawn_at_once(catalogue: Catalogue) -> None:
    for view in ("text", "image", "item"):
        given = GivenVectors(catalogue, CONFIG.seed, view)
        parts = [given.next(slice(start, start + 200)) for start in (0, 200, 400)]
        assert np.array_equal(_all_vectors(catalogue, view), np.concatenate(parts))


def test_all_seeds_share_one_imitated_encoder(catalogue: Catalogue) -> None:
    """Class means agree between seeds, while the items differ."""
    other = draw_catalogue(SampleConfig(n_items=600, seed=99))
    ours, theirs = _all_vectors(catalogue, "text"), _all_vectors(other, "text", seed=99)
    means = np.stack([ours[catalogue.category == c].mean(axis=0) for c in range(6)])
    nearest = ((theirs[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest == other.category) > 0.9
    assert not np.array_equal(ours, theirs)
