"""The split of the valid users: by user id only, disjoint, of about equal size."""

import dataclasses

import numpy as np
import pytest

from mmctr_pipeline.comparison.user_split import (
    UserSplitError,
    selects_epoch,
    split_valid,
)
from mmctr_pipeline_tests.training.small_sample import small_sample

MASK = 2**64 - 1


def plain_side(user: int) -> bool:
    mixed = (user + 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return bool((mixed ^ (mixed >> 31)) & 1)


def test_the_side_is_the_lowest_bit_of_splitmix_of_the_user() -> None:
    users = np.concatenate([np.arange(1, 2000), [1_000_000, 2**31 - 1]]).astype(np.int32)
    assert selects_epoch(users).tolist() == [plain_side(int(user)) for user in users]


def test_users_stay_whole_and_both_sides_are_about_equal() -> None:
    valid = small_sample(n_valid=1500)[0].valid
    selecting, reporting = split_valid(valid)
    assert not np.intersect1d(selecting.user_id, reporting.user_id).size
    assert len(selecting) + len(reporting) == len(valid)
    assert 0.48 < selects_epoch(np.arange(1, 20_001)).mean() < 0.52
    # The rows keep their order, and a user's side does not depend on the other rows.
    order = np.random.default_rng(0).permutation(len(valid))
    shuffled = split_valid(valid.take(order))[1]
    is_reporting = ~selects_epoch(valid.user_id)
    np.testing.assert_array_equal(reporting.item_id, valid.item_id[is_reporting])
    np.testing.assert_array_equal(shuffled.item_id, valid.item_id[order[is_reporting[order]]])


def test_a_valid_split_without_two_useful_sides_is_refused() -> None:
    valid = small_sample(n_valid=300)[0].valid
    with pytest.raises(UserSplitError, match="no labels"):
        split_valid(dataclasses.replace(valid, label=None))
    assert valid.label is not None
    selects = selects_epoch(valid.user_id)
    for side, name in ((selects, "select"), (~selects, "report")):
        one_class = np.where(side, 1, valid.label).astype(np.int8)
        with pytest.raises(UserSplitError, match=f"that {name} give no AUC.*needs both classes"):
            split_valid(dataclasses.replace(valid, label=one_class))
    one_user = dataclasses.replace(valid, user_id=np.full(len(valid), 7, np.int32))
    with pytest.raises(UserSplitError, match="needs more users"):
        split_valid(one_user)
