"""Users of the sample dataset click according to their tastes, with a known probability."""

import numpy as np
import pytest

from mmctr_pipeline.sample.behaviour import Behaviour, Impressions, draw_history_lengths
from mmctr_pipeline.sample.catalogue import FAMILY_SIZE, N_CELLS, Catalogue, draw_catalogue
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.tastes import draw_favourites

CONFIG = SampleConfig()
ROWS_OF_USER = np.array([8, 3, 13, 4] * 250)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return draw_catalogue(CONFIG)


@pytest.fixture(scope="module")
def rows(catalogue: Catalogue) -> Impressions:
    return _draw(Behaviour(catalogue, CONFIG), cold_row_share=0.3)


def _draw(behaviour: Behaviour, cold_row_share: float = 0.0) -> Impressions:
    rng = np.random.default_rng(0)
    favourites = draw_favourites(len(ROWS_OF_USER), rng)
    return behaviour.draw(ROWS_OF_USER, favourites, cold_row_share, rng)


def test_history_lengths_match_the_real_data() -> None:
    length = draw_history_lengths(200_000, np.random.default_rng(0), longest=100)
    assert length.min() == 3
    assert length.max() == 100
    assert length.mean() == pytest.approx(8, abs=0.3)
    assert length.std() == pytest.approx(7, abs=0.5)
    assert list(np.quantile(length, [0.25, 0.5, 0.75])) == [4, 6, 9]


def test_users_get_the_requested_numbers_of_rows_in_order(rows: Impressions) -> None:
    assert np.array_equal(rows.user, np.repeat(np.arange(len(ROWS_OF_USER)), ROWS_OF_USER))


def test_four_rows_of_a_user_share_a_history(rows: Impressions) -> None:
    assert np.array_equal(rows.user_of_history[rows.history], rows.user)
    assert set(np.bincount(rows.history[rows.user == 0])) == {4}
    assert list(np.bincount(rows.history[rows.user == 2])[-4:]) == [4, 4, 4, 1]
    assert set(rows.history) == set(range(len(rows.histories)))


def test_no_user_sees_an_item_twice(rows: Impressions) -> None:
    assert len(np.unique(np.stack([rows.user, rows.item_id]), axis=1).T) == len(rows)
    for index in range(len(rows.histories)):
        history = rows.histories[index]
        assert len(np.unique(history)) == len(history)
        assert not np.isin(rows.item_id[rows.history == index], history).any()


def test_cold_items_appear_only_as_targets_in_the_requested_share_of_rows(
    rows: Impressions, catalogue: Catalogue
) -> None:
    assert not catalogue.cold[rows.histories.values - 1].any()
    assert catalogue.cold[rows.item_id - 1].mean() == pytest.approx(0.3, abs=0.03)


def test_labels_match_their_probabilities(rows: Impressions) -> None:
    order = np.argsort(rows.probability)
    for part in np.array_split(order, 8):
        expected = rows.probability[part].mean()
        error = np.sqrt(expected * (1 - expected) / len(part))
        assert rows.label[part].mean() == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("side", ["category", "style"])
def test_both_tastes_show_in_histories_and_affect_clicks(
    rows: Impressions, catalogue: Catalogue, side: str
) -> None:
    """The majority family of a history, found without training, predicts clicks."""
    family = getattr(catalogue, side) // FAMILY_SIZE
    owner = np.repeat(np.arange(len(rows.histories)), rows.histories.lengths)
    total = np.bincount(owner, weights=family[rows.histories.values - 1])
    likes = np.rint(total / rows.histories.lengths)
    liked = family[rows.item_id - 1] == likes[rows.history]
    assert rows.label[liked].mean() > rows.label[~liked].mean() + 0.2


def test_without_effects_every_click_probability_is_one_half(catalogue: Catalogue) -> None:
    config = SampleConfig(style_effect=0, category_effect=0, popularity_effect=0, intercept=0)
    assert np.all(_draw(Behaviour(catalogue, config)).probability == 0.5)


def test_a_trend_changes_only_the_probabilities_of_its_cells(catalogue: Catalogue) -> None:
    plain = _draw(Behaviour(catalogue, CONFIG))
    trend = np.where(np.arange(N_CELLS) == 7, 2.0, 0.0)
    rows = _draw(Behaviour(catalogue, CONFIG, trend))
    assert np.array_equal(rows.item_id, plain.item_id)
    logits = [np.log(p / (1 - p)) for p in (plain.probability, rows.probability)]
    in_cell = catalogue.cell[rows.item_id - 1] == 7
    assert logits[1] - logits[0] == pytest.approx(2.0 * in_cell)
