"""Figures on the valid rows: AUC by slice beside the trivial baselines, ROC, score histograms."""

import dataclasses
from typing import Any

import numpy as np

from mmctr_pipeline import metrics
from mmctr_pipeline.baselines import BaselineScores
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.registry.slices import SHORT_HISTORY, valid_slices
from mmctr_pipeline.reporting.intervals import wilson_interval

_ROC_POINTS = 150
_HISTOGRAM_BINS = 40
_HISTORY_THIRDS = 3
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


@dataclasses.dataclass(frozen=True)
class SliceAuc:
    """AUC of the model and of the trivial baselines on some of the valid rows.

    `auc` is None if the rows are of one class, or if there are none; `baselines` has the AUC of
    each baseline by its key in `NAMES`, and is then empty.
    """

    name: str
    n_rows: int
    n_positive: int
    auc: metrics.AucInterval | None
    baselines: dict[str, float]


def auc_by_slice(
    dataset: CtrDataset, scores: np.ndarray, trivial: BaselineScores
) -> list[SliceAuc]:
    """Return the AUC on all valid rows, on `valid_slices`, and by length of the history.

    Parameters
    ----------
    dataset
        The dataset; its valid rows are labelled.
    scores
        The model's scores of the valid rows, `(N,)`.
    trivial
        The scores of the baselines on the same rows.
    """
    label = dataset.valid.label
    assert label is not None
    slices = valid_slices(dataset)
    short = slices.pop("short histories")
    new_users = slices.pop("new users")
    slices = {
        "all valid rows": np.ones(len(label), bool),
        **slices,
        f"histories of {SHORT_HISTORY} items or fewer": short,
        **_longer_histories(dataset, ~short),
        "new users": new_users,
    }
    return [_slice(name, label, scores, trivial, rows) for name, rows in slices.items()]


def _longer_histories(dataset: CtrDataset, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return thirds of `rows`, `(N,) bool`, by the length of the history."""
    length_N = dataset.histories.lengths[dataset.valid.history]
    if not rows.any():
        return {}
    third_N = np.full(len(length_N), -1)
    third_N[rows] = metrics.equal_mass_bins(length_N[rows], _HISTORY_THIRDS)
    found = {}
    for third in np.unique(third_N[rows]):
        is_third = third_N == third
        least, most = length_N[is_third].min(), length_N[is_third].max()
        span = f"{least:,} to {most:,}" if least < most else f"{least:,}"
        found[f"histories of {span} items"] = is_third
    return found


def _slice(
    name: str, label: np.ndarray, scores: np.ndarray, trivial: BaselineScores, rows: np.ndarray
) -> SliceAuc:
    n_rows, n_positive = int(rows.sum()), int((label[rows] == 1).sum())
    if not 0 < n_positive < n_rows:
        return SliceAuc(name, n_rows, n_positive, None, {})
    baselines = {key: metrics.auc(label[rows], each[rows]) for key, each in trivial.scores.items()}
    interval = metrics.auc_interval(label[rows], scores[rows])
    return SliceAuc(name, n_rows, n_positive, interval, baselines)


def roc_curve(label: np.ndarray, scores: np.ndarray) -> list[dict[str, float]]:
    """Return at most 152 points of the ROC curve, with Wilson's 95 % interval of the true rate.

    `label` is `(N,)` of 0 and 1, `scores` is `(N,)`; both classes must occur. A point has `fpr`,
    `tpr`, `low` and `high`, the interval for the share of the clicks above a fixed threshold.
    """
    order = np.argsort(-scores, kind="stable")
    is_last = np.append(np.diff(scores[order]) != 0, True)
    true_P = np.append(0, np.cumsum(label[order] == 1)[is_last])
    false_P = np.append(0, np.cumsum(label[order] != 1)[is_last])
    tpr_P, fpr_P = true_P / true_P[-1], false_P / false_P[-1]
    # Points at equal steps along the curve: there are as many on its steep part as on its flat one.
    way_P = tpr_P + fpr_P
    keep = np.unique(np.searchsorted(way_P, np.linspace(0, 2, _ROC_POINTS)).clip(0, len(way_P) - 1))
    low, high = wilson_interval(tpr_P[keep], np.full(len(keep), true_P[-1]))
    points = np.column_stack([fpr_P[keep], tpr_P[keep], low, high])
    return [
        dict(zip(("fpr", "tpr", "low", "high"), point, strict=True)) for point in points.tolist()
    ]


def score_groups(
    label: np.ndarray, valid_scores: np.ndarray, test_scores: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the scores of clicked and other valid rows and of test rows, by readable name."""
    groups = {
        "valid, clicked": valid_scores[label == 1],
        "valid, not clicked": valid_scores[label != 1],
        "test": test_scores,
    }
    return {name: scores for name, scores in groups.items() if len(scores)}


def histogram(groups: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return for each group and bin the share of the group's rows; the bins are equally wide."""
    low = min(float(scores.min()) for scores in groups.values())
    high = max(float(scores.max()) for scores in groups.values())
    edges = np.linspace(low, high if high > low else low + 1e-6, _HISTOGRAM_BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    return [
        {"probability": float(middle), "share": float(count / len(scores)), "rows": name}
        for name, scores in groups.items()
        for middle, count in zip(middles, np.histogram(scores, edges)[0], strict=True)
    ]
