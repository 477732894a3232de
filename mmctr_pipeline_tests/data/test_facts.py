"""Facts about a dataset: negatives, returning users, cold items, popularity, unseen values."""

import dataclasses

import numpy as np
import pytest

from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.facts import data_facts, unseen_rows
from mmctr_pipeline_tests.training.small_sample import small_sample


def rows(user_id: list[int], item_id: list[int], label: list[int], level: int = 1) -> Split:
    """Return rows in which user u has history u - 1."""
    levels = np.full(len(user_id), level, np.int8)
    users = np.array(user_id, np.int32)
    return Split(users, np.array(item_id, np.int32), users - 1, levels, levels, np.array(label))


def dataset(train: Split, valid: Split) -> CtrDataset:
    return dataclasses.replace(small_sample()[0], train=train, valid=valid)


def test_negatives_in_a_constant_ratio_to_clicks_count_as_draws() -> None:
    users = np.repeat(np.arange(1, 101), 4).tolist()
    items = np.random.default_rng(0).integers(1, 60, 400).tolist()
    drawn = rows(users, items, [1, 0, 0, 0] * 100)
    facts = data_facts(dataset(drawn, drawn))
    assert (facts.negatives, facts.ratio, facts.same_ratio) == ("draws", 3.0, 1.0)
    label = drawn.label
    assert label is not None
    label[:40] = [1, 1, 0, 0] * 10  # ten users in a hundred clicked on a second item
    facts = data_facts(dataset(drawn, drawn))
    assert (facts.negatives, facts.same_ratio) == ("impressions", pytest.approx(0.9))
    assert "only 90% of the users or histories have exactly 3 rows" in facts.why_negatives()


def test_almost_only_clicks_or_too_few_users_do_not_count_as_draws() -> None:
    users = np.repeat(np.arange(1, 101), 2).tolist()
    only_clicks = rows([*users, 101], [1] * 201, [1] * 200 + [0])
    assert data_facts(dataset(only_clicks, only_clicks)).negatives == "impressions"
    few = rows([1, 1, 2, 2], [1, 2, 1, 2], [1, 0, 1, 0])
    assert data_facts(dataset(few, few)).negatives == "impressions"


def test_returning_users_cold_items_and_popularity() -> None:
    train = rows([1, 2, 3, 3], [5, 5, 5, 6], [1, 1, 0, 1])
    valid = rows([1, 9, 9, 9], [5, 6, 7, 7], [1, 0, 1, 0])
    facts = data_facts(dataset(train, valid))
    assert (facts.returning, facts.cold, facts.users_return) == (0.25, 0.5, True)
    # In train rows with a click, item 5 has one click besides that of the row, and item 6 has none.
    # In the row without a click, item 5 has two clicks.
    assert facts.clicked_popularity == pytest.approx((2 * 2 * 1) ** (1 / 3) - 1)
    assert facts.other_popularity == pytest.approx(2)


def test_rows_with_values_that_train_lacks_are_counted_by_column() -> None:
    train = rows([1, 2], [5, 6], [1, 0], level=3)
    valid = rows([1, 9, 9], [5, 6, 7], [1, 0, 1], level=4)
    counts = unseen_rows(dataset(train, valid))["valid"]
    assert counts == {"user_id": 2, "item_id": 1, "likes_level": 3, "views_level": 3}
