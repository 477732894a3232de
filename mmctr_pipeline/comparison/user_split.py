"""Split the valid users in two: one part selects a model's epoch, the other measures it."""

import numpy as np

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.metrics import MetricError, auc

_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)


class UserSplitError(ValueError):
    """The valid users cannot be split into two parts that both allow an AUC."""


def selects_epoch(user_id: np.ndarray) -> np.ndarray:
    """Return which rows select the epoch, `(N,) bool`; the others report.

    All rows of a user are on the same side: the lowest bit of SplitMix64 (Steele, Lea and Flood,
    "Fast splittable pseudorandom number generators", OOPSLA 2014) of `user_id`, which is the id, or
    the row of an id that is mapped (`data.ids`). So the split does not depend on the order.
    """
    mixed = user_id.astype(np.uint64) + _INCREMENT
    for multiplier, shift in zip(_MULTIPLIERS, (30, 27), strict=True):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * multiplier
    mixed ^= mixed >> np.uint64(31)
    return (mixed & np.uint64(1)).astype(bool)


def split_valid(valid: Split) -> tuple[Split, Split]:
    """Return the selecting and the reporting rows of the valid split, both in order.

    Raises `UserSplitError` if valid has no labels, or if either part lacks a class.
    """
    if valid.label is None:
        raise UserSplitError("valid has no labels; a comparison needs them")
    selects = selects_epoch(valid.user_id)
    for name, rows in (("select", selects), ("report", ~selects)):
        try:
            auc(valid.label[rows], np.zeros(int(rows.sum())))
        except MetricError as error:
            raise UserSplitError(
                f"the valid users that {name} give no AUC ({error}); valid.parquet needs more users"
            ) from error
    return valid.take(selects), valid.take(~selects)
