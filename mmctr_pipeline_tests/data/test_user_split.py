"""Valid users are split by their ids alone, into disjoint sides of about equal size."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from mmctr_pipeline.data.ids import IdMap
from mmctr_pipeline.data.user_split import (
    UserSplitError,
    selects_epoch,
    split_valid,
)
from mmctr_pipeline_tests.training.small_sample import small_sample

MASK = 2**64 - 1


def plain_selects(user: int) -> bool:
    mixed = (user + 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return bool((mixed ^ (mixed >> 31)) & 1)


def test_the_side_of_a_user_is_the_lowest_bit_of_splitmix64_of_the_id() -> None:
    users = np.concatenate([np.arange(1, 2000), [1_000_000, 2**31 - 1]]).astype(np.int32)
    assert selects_epoch(users).tolist() == [plain_selects(int(user)) for user in users]


def test_no_user_is_on_both_sides_and_the_sides_are_about_equal() -> None:
    dataset = small_sample(n_valid=1500)[0]
    valid = dataset.valid
    selecting, reporting = split_valid(dataset)
    assert not np.intersect1d(selecting.user_id, reporting.user_id).size
    assert len(selecting) + len(reporting) == len(valid)
    assert 0.48 < selects_epoch(np.arange(1, 20_001)).mean() < 0.52
    # The rows keep their order, and a user's side does not depend on the other rows.
    order = np.random.default_rng(0).permutation(len(valid))
    shuffled = split_valid(dataclasses.replace(dataset, valid=valid.take(order)))[1]
    is_reporting = ~selects_epoch(valid.user_id)
    np.testing.assert_array_equal(reporting.item_id, valid.item_id[is_reporting])
    np.testing.assert_array_equal(shuffled.item_id, valid.item_id[order[is_reporting[order]]])


def test_a_valid_split_without_two_useful_sides_is_refused() -> None:
    dataset = small_sample(n_valid=300)[0]
    valid = dataset.valid

    def split(**changes: Any) -> None:
        split_valid(dataclasses.replace(dataset, valid=dataclasses.replace(valid, **changes)))

    with pytest.raises(UserSplitError, match="no labels"):
        split(label=None)
    assert valid.label is not None
    selects = selects_epoch(valid.user_id)
    for side, name in ((selects, "selects the epoch"), (~selects, "is reported")):
        one_class = np.where(side, 1, valid.label).astype(np.int8)
        with pytest.raises(UserSplitError, match=f"the AUC that {name} is undefined.*both classes"):
            split(label=one_class)
    with pytest.raises(UserSplitError, match="needs more users"):
        split(user_id=np.full(len(valid), 7, np.int32))


def test_the_side_follows_from_the_id_in_the_data_not_from_its_row() -> None:
    dataset = small_sample(n_valid=300)[0]
    n_users = int(max(split.user_id.max() for split in dataset.splits.values()))
    ids = 1000 * np.arange(1, n_users + 1)
    mapped = dataclasses.replace(dataset, users=IdMap(ids, is_identity=False))
    selecting, reporting = split_valid(mapped)
    expected = selects_epoch(ids[dataset.valid.user_id - 1])
    np.testing.assert_array_equal(selecting.item_id, dataset.valid.item_id[expected])
    np.testing.assert_array_equal(reporting.item_id, dataset.valid.item_id[~expected])
    # The same holds for string ids: a new user who sorts before the others moves their rows, but
    # not their sides.
    names = np.array([f"user {number:06}" for number in range(1, 2001)])
    sides = selects_epoch(names)
    assert 0.45 < sides.mean() < 0.55
    np.testing.assert_array_equal(selects_epoch(np.append("a", names))[1:], sides)
