"""Co-interaction counts equal those of a plain reference that uses Python sets."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from mmctr_pipeline.data.co_interactions import CoInteractions, count_co_interactions
from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline_tests.data.rows_by_hand import N_ITEMS, items_by_user, train_rows


def plain_counts(train: Split, histories: Ragged) -> tuple[set, Counter, Counter]:
    items = items_by_user(train, histories)
    interactions = {(user, item) for user, user_items in items.items() for item in user_items}
    users_of_item = Counter(item for _, item in interactions)
    pairs: Counter = Counter()
    for user_items in items.values():
        pairs.update(itertools.combinations(sorted(user_items), 2))
    return interactions, users_of_item, pairs


def assert_counts(counts: CoInteractions, train: Split, histories: Ragged) -> None:
    interactions, users_of_item, pairs = plain_counts(train, histories)
    assert counts.interaction_E.tolist() == sorted(u * N_ITEMS + i for u, i in interactions)
    assert counts.users_of_item_I.tolist() == [users_of_item[item] for item in range(N_ITEMS)]
    pair_counts = zip(counts.pair_P.tolist(), counts.users_of_pair_P.tolist(), strict=True)
    assert {divmod(key, N_ITEMS): count for key, count in pair_counts} == dict(pairs)
    assert counts.pair_P.tolist() == sorted(counts.pair_P.tolist())


def test_counts_of_a_small_example() -> None:
    rows = [(1, 5, 1, 0), (1, 6, 0, 0), (2, 5, 1, 1), (3, 7, 1, 2)]
    counts = count_co_interactions(*train_rows(rows, [[3, 4], [4], []]), N_ITEMS)
    # User 1 has 3, 4, 5 (6 was not clicked), user 2 has 4 and 5, user 3 has 7.
    assert counts.users_of_item_I.tolist() == [0, 0, 0, 1, 2, 2, 0, 1, 0, 0, 0, 0]
    keys = [divmod(key, N_ITEMS) for key in counts.pair_P.tolist()]
    assert dict(zip(keys, counts.users_of_pair_P.tolist(), strict=True)) == {
        (3, 4): 1,
        (3, 5): 1,
        (4, 5): 2,
    }


@pytest.mark.parametrize("seed", range(5))
def test_counts_of_random_rows_equal_the_reference(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lists = [generator.integers(1, N_ITEMS, generator.integers(0, 7)).tolist() for _ in range(15)]
    rows = [
        (
            int(generator.integers(1, 6)),
            int(generator.integers(1, N_ITEMS)),
            int(generator.integers(0, 2)),
            int(generator.integers(0, 15)),
        )
        for _ in range(40)
    ]
    train, histories = train_rows(rows, lists)
    assert_counts(count_co_interactions(train, histories, N_ITEMS), train, histories)


def test_rows_without_interactions_have_no_counts() -> None:
    train, histories = train_rows([(1, 5, 0, 0)], [[]])
    assert_counts(count_co_interactions(train, histories, N_ITEMS), train, histories)


def test_rows_without_labels_are_refused() -> None:
    train, histories = train_rows([(1, 5, 1, 0)], [[2]])
    with pytest.raises(ValueError, match="no labels"):
        count_co_interactions(dataclasses.replace(train, label=None), histories, N_ITEMS)
