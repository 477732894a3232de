"""The halves of the valid users: by user alone, disjoint, of about the same size."""

import dataclasses

import numpy as np
import pytest

from mmctr_pipeline.comparison.user_split import (
    HalvesError,
    selection_half,
    split_valid,
)
from mmctr_pipeline_tests.training.small_sample import small_sample

MASK = 2**64 - 1


def plain_half(user: int) -> bool:
    mixed = (user + 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return bool((mixed ^ (mixed >> 31)) & 1)


def test_the_half_is_the_lowest_bit_of_splitmix_of_the_user() -> None:
    users = np.concatenate([np.arange(1, 2000), [1_000_000, 2**31 - 1]]).astype(np.int32)
    assert selection_half(users).tolist() == [plain_half(int(user)) for user in users]


def test_users_are_whole_and_the_halves_about_equal() -> None:
    valid = small_sample(n_valid=1500)[0].valid
    selecting, reporting = split_valid(valid)
    assert not np.intersect1d(selecting.user_id, reporting.user_id).size
    assert len(selecting) + len(reporting) == len(valid)
    assert 0.48 < selection_half(np.arange(1, 20_001)).mean() < 0.52
    # The rows keep their order, and what else is in the split changes nothing.
    order = np.random.default_rng(0).permutation(len(valid))
    shuffled = split_valid(valid.take(order))[1]
    is_reporting = ~selection_half(valid.user_id)
    np.testing.assert_array_equal(reporting.item_id, valid.item_id[is_reporting])
    np.testing.assert_array_equal(shuffled.item_id, valid.item_id[order[is_reporting[order]]])


def test_a_valid_split_that_measures_nothing_is_refused() -> None:
    valid = small_sample(n_valid=300)[0].valid
    with pytest.raises(HalvesError, match="no labels"):
        split_valid(dataclasses.replace(valid, label=None))
    assert valid.label is not None
    selects = selection_half(valid.user_id)
    for half, name in ((selects, "selects"), (~selects, "reports")):
        one_class = np.where(half, 1, valid.label).astype(np.int8)
        with pytest.raises(HalvesError, match=f"that {name} is of no use.*needs both classes"):
            split_valid(dataclasses.replace(valid, label=one_class))
    one_user = dataclasses.replace(valid, user_id=np.full(len(valid), 7, np.int32))
    with pytest.raises(HalvesError, match="needs more users"):
        split_valid(one_user)
