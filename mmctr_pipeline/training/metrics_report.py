"""The metrics report of a model's scores; everything that is reported comes from it."""

import dataclasses
import json
from typing import Any

import numpy as np

from mmctr_pipeline import metrics
from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged

_WARM = ("rare", "medium", "popular")
"""Thirds of the rows whose target is not cold."""


@dataclasses.dataclass(frozen=True)
class PopularityBucket:
    """Rows whose target occurs between `least` and `most` times in train.

    `auc` is None if the rows are all of one class, or if there are none.
    """

    name: str
    least: int
    most: int
    n_rows: int
    n_positive: int
    auc: metrics.AucInterval | None


@dataclasses.dataclass(frozen=True)
class MetricsReport:
    """Metrics of scores on labelled rows.

    `log_loss` and `calibration` may leave out rows on which the scores were calibrated.
    `by_user` is the AUC within the rows of each user. `by_popularity` begins with the cold items,
    which occur in no train row. The other rows are split into thirds by how often their target
    occurs in train rows, as a target or in a history. Targets with equal popularity share a bucket,
    so there may be fewer than three.
    """

    auc: metrics.AucInterval
    log_loss: float
    by_user: metrics.GroupedAuc
    calibration: metrics.Calibration
    by_popularity: tuple[PopularityBucket, ...]

    def headline(self) -> dict[str, float]:
        """Return the main metrics by name (`TrainedCtr.metrics`), without undefined ones."""
        auc, cold = self.auc, self.by_popularity[0].auc
        optional = {
            "valid_auc_by_user": self.by_user.auc,
            "valid_auc_cold": cold.auc if cold else None,
        }
        return {
            "valid_auc": auc.auc,
            "valid_auc_low": auc.low,
            "valid_auc_high": auc.high,
            "valid_auc_standard_error": auc.standard_error,
            "valid_log_loss": self.log_loss,
            "valid_calibration_error": self.calibration.error,
            "valid_calibration_error_limit": self.calibration.limit,
            "n_valid_positive": float(auc.n_positive),
            "n_valid_negative": float(auc.n_negative),
            **{name: value for name, value in optional.items() if value is not None},
        }

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def metrics_report(
    split: Split,
    scores: np.ndarray,
    train: Split,
    histories: Ragged,
    calibration_rows: np.ndarray | None = None,
) -> MetricsReport:
    """Measure predicted probabilities; calibration uses 15 bins with equally many rows.

    Raises `MetricError` if the labels are missing or all of one class, or if a score is not a
    probability.

    Parameters
    ----------
    split
        N labelled rows.
    scores
        The predicted probabilities of these rows, `(N,)`.
    train
        The rows that the model was trained on.
    histories
        The histories of both splits.
    calibration_rows
        `(N,) bool`, True for the rows that log-loss and calibration use; by default all rows.
    """
    if split.label is None:
        raise metrics.MetricError("the split has no labels to compare the scores with")
    times = times_in_train(split.item_id, train, histories)
    rows = slice(None) if calibration_rows is None else calibration_rows
    probabilities = (split.label[rows], scores[rows])
    return MetricsReport(
        auc=metrics.auc_interval(split.label, scores),
        log_loss=metrics.log_loss(*probabilities),
        by_user=metrics.grouped_auc(split.label, scores, split.user_id),
        calibration=metrics.calibration(*probabilities),
        by_popularity=_by_popularity(split.label, scores, times),
    )


def times_in_train(item_id: np.ndarray, train: Split, histories: Ragged) -> np.ndarray:
    """Return how often each item occurs in train, as a target or in a history, `(N,) int64`."""
    n_ids = 1 + max(int(ids.max(initial=0)) for ids in (item_id, train.item_id, histories.values))
    n_rows_H = np.bincount(train.history, minlength=len(histories))
    n_rows_T = np.repeat(n_rows_H, histories.lengths)
    in_histories_I = np.bincount(histories.values, n_rows_T, minlength=n_ids)
    times_I = np.bincount(train.item_id, minlength=n_ids) + in_histories_I
    return times_I[item_id].astype(np.int64)


def _by_popularity(
    label: np.ndarray, scores: np.ndarray, times: np.ndarray
) -> tuple[PopularityBucket, ...]:
    def bucket(name: str, rows: np.ndarray) -> PopularityBucket:
        n_positive = int((label[rows] == 1).sum())
        has_both = 0 < n_positive < len(rows)
        return PopularityBucket(
            name=name,
            least=int(times[rows].min()) if len(rows) else 0,
            most=int(times[rows].max(initial=0)),
            n_rows=len(rows),
            n_positive=n_positive,
            auc=metrics.auc_interval(label[rows], scores[rows]) if has_both else None,
        )

    warm = np.flatnonzero(times)
    third = metrics.equal_mass_bins(times[warm], len(_WARM)) if len(warm) else warm
    thirds = {name: warm[third == n] for n, name in enumerate(_WARM)}
    return (
        bucket("cold", np.flatnonzero(times == 0)),
        *(bucket(name, rows) for name, rows in thirds.items() if len(rows)),
    )
