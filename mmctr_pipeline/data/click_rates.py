"""Rows, clicks and smoothed click rates of users or items, counted over labelled rows."""

import dataclasses
from typing import Self

import numpy as np

from mmctr_pipeline.data.user_split import splitmix64

ITEM_SMOOTHING = 5.0
USER_SMOOTHING = 10.0
"""Numbers of rows with the mean click rate that are added to the rows of each item or user."""

N_FOLDS = 4
"""Number of folds of the train rows. A train row's features are click rates in the other folds."""


@dataclasses.dataclass(frozen=True)
class ClickCounts:
    """Rows and clicks of each id, and the click rate of all rows.

    `n_rows_I` and `n_clicks_I` are `(I,) int64`; ids are below I. `mean` is in (0, 1).
    """

    n_rows_I: np.ndarray
    n_clicks_I: np.ndarray
    mean: float

    @classmethod
    def count(cls, ids: np.ndarray, label: np.ndarray | None, n_ids: int = 0) -> Self:
        """Count rows and clicks of each id.

        Raises `ValueError` if there are no labels, or labels of one class only.

        Parameters
        ----------
        ids
            User or item of each row, `(N,)` integers from 0.
        label
            Labels, `(N,)` of 0 and 1.
        n_ids
            Minimum length of the arrays of counts.
        """
        if label is None:
            raise ValueError("click rates need labelled rows; these have no labels")
        is_clicked = label == 1
        if is_clicked.all() or not is_clicked.any():
            raise ValueError(f"click rates need both classes; all {len(label)} labels are equal")
        n_rows_I = np.bincount(ids, minlength=n_ids)
        n_clicks_I = np.bincount(ids[is_clicked], minlength=len(n_rows_I))
        return cls(n_rows_I, n_clicks_I, float(is_clicked.mean()))

    def n_rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of rows of each id, `(N,) int64`; 0 for ids that were not counted."""
        return _at(self.n_rows_I, ids)

    def n_clicks(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of clicks of each id, `(N,) int64`; 0 for ids that were not counted."""
        return _at(self.n_clicks_I, ids)

    def logits(self, ids: np.ndarray, smoothing: float) -> np.ndarray:
        """Return the logit of each id's smoothed click rate minus the logit of the mean.

        The result is `(N,) float64`, 0 for ids that were not counted.
        """
        return rate_logits(self.n_clicks(ids), self.n_rows(ids), self.mean, smoothing)


def rate_logits(
    n_clicks: np.ndarray, n_rows: np.ndarray, mean: float, smoothing: float
) -> np.ndarray:
    """Return logits of smoothed click rates minus the logit of the mean, float64.

    Parameters
    ----------
    n_clicks, n_rows
        Clicks and rows, arrays of one shape.
    mean
        Click rate of all rows, in (0, 1).
    smoothing
        Number of rows with the mean click rate that are added to those of each element.
    """
    # The logit of a rate is the log of clicks over rows without a click.
    added_clicks, added_others = smoothing * mean, smoothing * (1 - mean)
    odds = (n_clicks + added_clicks) / (n_rows - n_clicks + added_others)
    return np.log(odds) - np.log(added_clicks / added_others)


def fold_columns(user_id: np.ndarray, item_id: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns `row_fold` and `user_fold` of train rows, `(N,) int64` below `N_FOLDS`.

    `row_fold` is a hash of user and item, so rows with the same user and item share a fold.
    `user_fold` is a hash of the user alone.
    """
    user_N = splitmix64(user_id.astype(np.uint64))
    row_N = splitmix64(user_N ^ item_id.astype(np.uint64))
    hashes = {"row_fold": row_N, "user_fold": splitmix64(user_N)}
    return {name: (hash_N % np.uint64(N_FOLDS)).astype(np.int64) for name, hash_N in hashes.items()}


def _at(counts_I: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the count of each id, 0 beyond the table."""
    is_counted = ids < len(counts_I)
    return np.where(is_counted, counts_I[np.where(is_counted, ids, 0)], 0)
