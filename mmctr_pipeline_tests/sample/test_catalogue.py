"""Items of the sample dataset have a category, a style and a popularity."""

import numpy as np
import pytest

from mmctr_pipeline.sample.catalogue import (
    CATEGORIES,
    MAX_TAGS,
    N_CELLS,
    STYLES,
    TAG_VOCABULARY,
    Catalogue,
    ItemSampler,
    draw_catalogue,
)
from mmctr_pipeline.sample.config import SampleConfig

CONFIG = SampleConfig(n_items=720)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return draw_catalogue(CONFIG)


def test_every_pair_of_category_and_style_has_equally_many_items(catalogue: Catalogue) -> None:
    counts = np.bincount(catalogue.cell, minlength=N_CELLS)
    assert len(CATEGORIES) * len(STYLES) == N_CELLS
    assert set(counts) == {CONFIG.n_items // N_CELLS}


def test_cold_items_are_distributed_evenly_over_the_pairs(catalogue: Catalogue) -> None:
    assert catalogue.cold.mean() == pytest.approx(CONFIG.cold_item_share)
    assert len(set(np.bincount(catalogue.cell[catalogue.cold], minlength=N_CELLS))) == 1


def test_a_cold_share_of_zero_gives_no_cold_items() -> None:
    assert not draw_catalogue(SampleConfig(cold_item_share=0.0)).cold.any()


def test_levels_follow_popularity_and_stay_in_range(catalogue: Catalogue) -> None:
    for level in (catalogue.likes_level, catalogue.views_level):
        assert level.min() >= 0
        assert level.max() <= 10
        assert np.corrcoef(level, catalogue.log_popularity)[0, 1] > 0.7


def test_more_than_half_of_the_tags_belong_to_the_category_of_their_item(
    catalogue: Catalogue,
) -> None:
    assert catalogue.tags.lengths.min() == 1
    assert catalogue.tags.lengths.max() == MAX_TAGS
    assert catalogue.tags.values.min() >= 1
    assert catalogue.tags.values.max() < TAG_VOCABULARY
    owner = np.repeat(catalogue.category, catalogue.tags.lengths)
    block = (catalogue.tags.values - 1) // ((TAG_VOCABULARY - 1) // (len(CATEGORIES) + 1))
    assert 0.5 < np.mean(block == owner) < 0.7
    assert set(block) <= set(range(len(CATEGORIES) + 1))


@pytest.mark.parametrize("warm", [True, False])
def test_sampled_items_have_the_requested_cell_and_are_all_warm_or_all_cold(
    catalogue: Catalogue, warm: bool
) -> None:
    sampler = ItemSampler(catalogue, warm=warm, popularity_spread=1.0)
    cell = np.tile(np.arange(N_CELLS), 50)
    rng = np.random.default_rng(0)
    for item_id in (sampler.draw(cell, rng), sampler.draw_evenly(cell, rng)):
        assert np.array_equal(catalogue.cell[item_id - 1], cell)
        assert np.all(catalogue.cold[item_id - 1] != warm)
    anything = sampler.draw_any(1_000, rng)
    assert np.all(catalogue.cold[anything - 1] != warm)


def test_popular_items_are_drawn_more_often(catalogue: Catalogue) -> None:
    rng = np.random.default_rng(0)
    cell = np.repeat(np.arange(N_CELLS), 400)
    means = [
        catalogue.log_popularity[
            ItemSampler(catalogue, warm=True, popularity_spread=spread).draw(cell, rng) - 1
        ].mean()
        for spread in (0.0, 1.0, 3.0)
    ]
    assert means[0] == pytest.approx(catalogue.log_popularity[~catalogue.cold].mean(), abs=0.05)
    assert means[0] + 0.3 < means[1] < means[2] - 0.3


def test_a_pool_without_items_of_a_cell_yields_items_of_other_cells() -> None:
    drawn = draw_catalogue(SampleConfig(n_items=180, cold_item_share=0.21))
    # Only one cell has cold items.
    catalogue = Catalogue(**{**vars(drawn), "cold": (drawn.cell == 3) & drawn.cold})
    sampler = ItemSampler(catalogue, warm=False, popularity_spread=0.2)
    item_id = sampler.draw(np.arange(N_CELLS), np.random.default_rng(0))
    assert np.all(catalogue.cold[item_id - 1])
