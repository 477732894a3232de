"""What a model's scores are worth: one evaluation, from which all that is reported is taken."""

import dataclasses
from typing import Any

import numpy as np

from mmctr_pipeline import metrics
from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged

_WARM = ("rare", "middling", "popular")
"""Thirds of the rows whose target is not cold."""


@dataclasses.dataclass(frozen=True)
class PopularityBucket:
    """Rows whose target stands between `least` and `most` times in train.

    `auc` is None where the rows are of one class, or there are none.
    """

    name: str
    least: int
    most: int
    n_rows: int
    n_positive: int
    auc: metrics.AucInterval | None


@dataclasses.dataclass(frozen=True)
class MetricsReport:
    """What scores are worth on labelled rows.

    `by_user` is the AUC within the rows of a user. `by_popularity` begins with the cold items,
    which stand in no train row; the rest of the rows are cut into thirds by how often their target
    stands in train rows, as their target or in their histories. Targets of equal popularity share
    a bucket, so that there may be fewer than three.
    """

    auc: metrics.AucInterval
    log_loss: float
    by_user: metrics.GroupedAuc
    calibration: metrics.Calibration
    by_popularity: tuple[PopularityBucket, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars."""
        plain = dataclasses.asdict(self)
        plain["calibration"]["bins"] = list(plain["calibration"]["bins"])
        return {**plain, "by_popularity": list(plain["by_popularity"])}


def metrics_report(
    split: Split, scores: np.ndarray, train: Split, histories: Ragged
) -> MetricsReport:
    """Evaluate the probabilities `scores`, `(N,)`, of the rows of `split`, which have labels.

    `history` of both splits points into `histories`; `train` are the rows that the model was
    trained on. Calibration is over 15 bins of equally many rows. Raises `MetricError` for labels of
    one class and for scores that are no probabilities.
    """
    if split.label is None:
        raise metrics.MetricError("the split has no labels to evaluate scores with")
    return MetricsReport(
        auc=metrics.auc_interval(split.label, scores),
        log_loss=metrics.log_loss(split.label, scores),
        by_user=metrics.grouped_auc(split.label, scores, split.user_id),
        calibration=metrics.calibration(split.label, scores),
        by_popularity=_by_popularity(
            split.label, scores, _times_in_train(split.item_id, train, histories)
        ),
    )


def _times_in_train(item_id: np.ndarray, train: Split, histories: Ragged) -> np.ndarray:
    """Return how often each item stands in the train rows, `(N,) int64`."""
    n_ids = 1 + max(int(ids.max(initial=0)) for ids in (item_id, train.item_id, histories.values))
    n_rows_H = np.bincount(train.history, minlength=len(histories))
    of_histories_I = np.bincount(
        histories.values, np.repeat(n_rows_H, histories.lengths), minlength=n_ids
    )
    times_I = np.bincount(train.item_id, minlength=n_ids) + of_histories_I
    return times_I[item_id].astype(np.int64)


def _by_popularity(
    label: np.ndarray, scores: np.ndarray, times: np.ndarray
) -> tuple[PopularityBucket, ...]:
    def bucket(name: str, rows: np.ndarray) -> PopularityBucket:
        n_positive = int((label[rows] == 1).sum())
        both = 0 < n_positive < len(rows)
        return PopularityBucket(
            name=name,
            least=int(times[rows].min()) if len(rows) else 0,
            most=int(times[rows].max(initial=0)),
            n_rows=len(rows),
            n_positive=n_positive,
            auc=metrics.auc_interval(label[rows], scores[rows]) if both else None,
        )

    buckets = [bucket("cold", np.flatnonzero(times == 0))]
    warm = np.flatnonzero(times)
    if len(warm):
        third = metrics.equal_mass_bins(times[warm], len(_WARM))
        buckets += [
            bucket(name, warm[third == place])
            for place, name in enumerate(_WARM)
            if (third == place).any()
        ]
    return tuple(buckets)
