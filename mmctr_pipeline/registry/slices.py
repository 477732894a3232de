"""Slices of the valid rows on which a challenger must not be worse."""

import numpy as np

from mmctr_pipeline import metrics
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.training.metrics_report import times_in_train

SHORT_HISTORY = 3
"""A history of at most this many items is short."""

_QUARTERS = ("least popular quarter", "second quarter", "third quarter", "most popular quarter")


def valid_slices(dataset: CtrDataset) -> dict[str, np.ndarray]:
    """Return slices of the valid rows by name, each `(N,) bool`; they may overlap.

    The slices are: targets that occur in no train row; quarters of the other rows by how often
    their target occurs in train rows, as a target or in a history; short histories; users who occur
    in no train row. Targets with equal popularity share a quarter, so quarters may be unequal.
    """
    valid = dataset.valid
    times_N = times_in_train(valid.item_id, dataset.train, dataset.histories)
    is_warm_N = times_N > 0
    quarter_N = np.full(len(valid), -1)
    if is_warm_N.any():
        quarter_N[is_warm_N] = metrics.equal_mass_bins(times_N[is_warm_N], len(_QUARTERS))
    return {
        "cold items": ~is_warm_N,
        **{name: quarter_N == number for number, name in enumerate(_QUARTERS)},
        "short histories": dataset.histories.lengths[valid.history] <= SHORT_HISTORY,
        "new users": ~np.isin(valid.user_id, dataset.train.user_id),
    }
