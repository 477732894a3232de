"""The two halves of the valid users: one selects a model's epoch, the other measures it."""

import numpy as np

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.metrics import MetricError, auc

_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)


class HalvesError(ValueError):
    """The valid split cannot be cut in two halves that both measure an AUC."""


def selection_half(user_id: np.ndarray) -> np.ndarray:
    """Return which rows belong to the half that selects, `(N,) bool`; the others report.

    A user's rows stay together: the half is the lowest bit of SplitMix64 (Steele, Lea and Flood,
    "Fast splittable pseudorandom number generators", OOPSLA 2014) of the id, so that it depends on
    nothing else, neither the order nor the other rows.
    """
    mixed = user_id.astype(np.uint64) + _INCREMENT
    for multiplier, shift in zip(_MULTIPLIERS, (30, 27), strict=True):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * multiplier
    mixed ^= mixed >> np.uint64(31)
    return (mixed & np.uint64(1)).astype(bool)


def split_valid(valid: Split) -> tuple[Split, Split]:
    """Return the rows of the valid split that select, and those that report, both in order.

    Raises `HalvesError` where the split has no labels, or a half has not both classes.
    """
    if valid.label is None:
        raise HalvesError("valid has no labels; there is nothing to compare on")
    selects = selection_half(valid.user_id)
    for name, rows in (("selects", selects), ("reports", ~selects)):
        try:
            auc(valid.label[rows], np.zeros(int(rows.sum())))
        except MetricError as error:
            raise HalvesError(
                f"the half of the valid users that {name} is of no use ({error}); "
                "valid.parquet needs more users"
            ) from error
    return valid.take(selects), valid.take(~selects)
