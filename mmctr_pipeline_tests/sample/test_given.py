import numpy as np
import pytest

from mmctr_pipeline.sample.catalogue import Catalogue, draw_catalogue
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.given import GivenVectors

CONFIG = SampleConfig(n_items=600)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return draw_catalogue(CONFIG)


def _probe(vectors: np.ndarray, kind: np.ndarray) -> float:
    """Accuracy of the nearest class mean, taken from one half of the items, on the other."""
    means = np.stack([vectors[::2][kind[::2] == k].mean(axis=0) for k in range(kind.max() + 1)])
    distance = ((vectors[1::2, None] - means) ** 2).sum(axis=2)
    return float(np.mean(distance.argmin(axis=1) == kind[1::2]))


def test_each_view_tells_its_own_side(catalogue: Catalogue) -> None:
    given = GivenVectors(catalogue, CONFIG)
    text, image = given.text_and_image(slice(0, 600))
    item = given.item(slice(0, 600))
    assert (text.shape, image.shape, item.shape) == ((600, 768), (600, 1024), (600, 128))
    assert text.dtype == image.dtype == item.dtype == np.float32
    assert _probe(text, catalogue.category) > 0.9
    assert _probe(text, catalogue.style) < 0.3
    assert _probe(image, catalogue.style) > 0.9
    assert _probe(image, catalogue.category) < 0.3
    assert _probe(item, catalogue.category) > 0.9
    assert _probe(item, catalogue.style) > 0.9


def test_slices_make_up_the_whole(catalogue: Catalogue) -> None:
    whole = GivenVectors(catalogue, CONFIG).text_and_image(slice(0, 600))
    sliced = GivenVectors(catalogue, CONFIG)
    parts = [sliced.text_and_image(slice(start, start + 200)) for start in (0, 200, 400)]
    for one, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert np.array_equal(one, np.concatenate(pieces))


def test_worlds_of_other_seeds_are_seen_by_the_same_encoder(catalogue: Catalogue) -> None:
    """Class means agree between seeds, while the items differ."""
    other_config = SampleConfig(n_items=600, seed=99)
    other = draw_catalogue(other_config)
    ours = GivenVectors(catalogue, CONFIG).text_and_image(slice(0, 600))[0]
    theirs = GivenVectors(other, other_config).text_and_image(slice(0, 600))[0]
    means = np.stack([ours[catalogue.category == c].mean(axis=0) for c in range(6)])
    nearest = ((theirs[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest == other.category) > 0.9
    assert not np.array_equal(ours, theirs)
