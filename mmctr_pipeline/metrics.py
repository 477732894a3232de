"""Metrics of scores: AUC with its interval, paired comparison, grouped AUC, log-loss, calibration.

DeLong's variance takes O(n log n) with midranks, after Sun and Xu, "Fast implementation of DeLong's
algorithm", IEEE Signal Processing Letters 21 (2014).
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

# A 95 % interval ends this many standard errors from the estimate, on both sides.
_NORMAL_975 = 1.959963984540054
# A one-sided 95 % interval ends this many standard errors from the estimate.
NORMAL_95 = 1.6448536269514722
# Largest standard deviation of values in [0, 1].
_LARGEST_STANDARD_ERROR = 0.5
# How many times labels are drawn to compute `Calibration.limit`.
_REDRAWN = 400


class MetricError(ValueError):
    """A metric is undefined for the given labels and scores; the message says why."""


@dataclasses.dataclass(frozen=True)
class AucInterval:
    """An AUC with its 95 % DeLong interval, clipped to [0, 1], and the class sizes."""

    auc: float
    low: float
    high: float
    standard_error: float
    n_positive: int
    n_negative: int


@dataclasses.dataclass(frozen=True)
class AucComparison:
    """Difference of two AUCs on the same rows, the first minus the second.

    `low` and `high` are the ends of the difference's 95 % interval; `p_value` is two-sided.
    """

    difference: float
    low: float
    high: float
    standard_error: float
    p_value: float

    @property
    def one_sided_low(self) -> float:
        """Lower end of the one-sided 95 % interval of the difference."""
        return self.difference - NORMAL_95 * self.standard_error


@dataclasses.dataclass(frozen=True)
class GroupedAuc:
    """Mean AUC, weighted by rows, over the `n_groups` groups that have both classes.

    `n_rows` counts the rows of these groups. `auc` is None if there is no such group.
    """

    auc: float | None
    n_groups: int
    n_rows: int


@dataclasses.dataclass(frozen=True)
class CalibrationBin:
    """Mean probability and share of clicks of rows with similar probabilities."""

    mean_probability: float
    share_positive: float
    n_rows: int


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Expected calibration error, and the bins it is computed from.

    `limit` tells how large an error chance alone makes. If labels are drawn from the probabilities
    themselves, as for a perfectly calibrated model, the error exceeds `limit` in only 5 % of the
    draws.
    """

    error: float
    limit: float
    bins: tuple[CalibrationBin, ...]


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the exact area under the ROC curve; ties count one half.

    `labels` is `(N,)` of 0 and 1 (or booleans); `scores` is `(N,)` of finite numbers, higher for
    rows more likely to be positive. Raises `MetricError` if a label is neither 0 nor 1, if all
    labels are equal, or if a score is not finite.
    """
    positive_N, scores_N = _checked(labels, scores)
    ranks_N = _midranks(scores_N)
    n_positive = int(positive_N.sum())
    n_negative = len(positive_N) - n_positive
    rank_sum = float(ranks_N[positive_N].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def auc_interval(labels: ArrayLike, scores: ArrayLike) -> AucInterval:
    """Return the AUC with its 95 % DeLong interval; same arguments and errors as `auc`.

    The variance cannot be estimated if a class has a single row. The standard error is then 0.5,
    the largest that is possible. Perfectly separated classes have a standard error of zero.
    """
    components = _components(labels, scores)
    area, (n_positive, n_negative) = _area(components), map(len, components)
    error = math.sqrt(max(_covariance(components, components), 0.0))
    if min(n_positive, n_negative) < 2:
        error = _LARGEST_STANDARD_ERROR
    return AucInterval(
        auc=area,
        low=max(area - _NORMAL_975 * error, 0.0),
        high=min(area + _NORMAL_975 * error, 1.0),
        standard_error=error,
        n_positive=n_positive,
        n_negative=n_negative,
    )


def compare_auc(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> AucComparison:
    """Compare two vectors of scores of the same rows by DeLong's paired test.

    Raises the errors of `auc`, and `MetricError` if a class has a single row, since the variance
    cannot be estimated then.
    """
    a, b = _components(labels, scores_a), _components(labels, scores_b)
    if min(map(len, a)) < 2:
        raise MetricError("a comparison needs at least two rows of each class")
    variance = _covariance(a, a) + _covariance(b, b) - 2 * _covariance(a, b)
    error = math.sqrt(max(variance, 0.0))
    difference = _area(a) - _area(b)
    z_without_error = math.inf if difference else 0.0
    z = abs(difference) / error if error > 0 else z_without_error
    return AucComparison(
        difference=difference,
        low=difference - _NORMAL_975 * error,
        high=difference + _NORMAL_975 * error,
        standard_error=error,
        p_value=math.erfc(z / math.sqrt(2)),
    )


def log_loss(labels: ArrayLike, probabilities: ArrayLike, epsilon: float = 1e-7) -> float:
    """Return the mean negative log-likelihood, in nats, of probabilities in [0, 1].

    Probabilities are clipped to [epsilon, 1 - epsilon]; the default epsilon is about float32's
    resolution at 1. A single class is allowed. Raises `MetricError` for labels other than 0 and 1,
    and for probabilities that are not finite or outside [0, 1].
    """
    positive_N, probabilities_N = _checked_probabilities(labels, probabilities)
    clipped_N = np.clip(probabilities_N, epsilon, 1 - epsilon)
    return float(-np.log(np.where(positive_N, clipped_N, 1 - clipped_N)).mean())


def grouped_auc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> GroupedAuc:
    """Return the mean AUC within groups of rows, for instance by user; ties count one half.

    `groups` is `(N,)`, a number or name per row. Raises the errors of `auc`, except that all labels
    may be equal.
    """
    positive_N, scores_N = _checked(labels, scores, both_classes=False)
    _, group_N = np.unique(np.asarray(groups), return_inverse=True)
    if group_N.shape != scores_N.shape:
        raise MetricError(f"{len(scores_N)} scores but groups of shape {np.shape(groups)}")
    n_rows_G, n_positive_G = np.bincount(group_N), np.bincount(group_N, positive_N)
    _, score_N = np.unique(scores_N, return_inverse=True)
    # Rank by group, then by score, and subtract from each rank the rows in earlier groups.
    ranks_N = _midranks(group_N * len(scores_N) + score_N)
    ranks_N -= (np.cumsum(n_rows_G) - n_rows_G)[group_N]
    rank_sum_G = np.bincount(group_N, ranks_N * positive_N)
    n_pairs_G = n_positive_G * (n_rows_G - n_positive_G)
    wins_G = rank_sum_G - n_positive_G * (n_positive_G + 1) / 2
    usable_G = n_pairs_G > 0
    weight_G, auc_G = n_rows_G[usable_G], wins_G[usable_G] / n_pairs_G[usable_G]
    return GroupedAuc(
        auc=float(np.average(auc_G, weights=weight_G)) if usable_G.any() else None,
        n_groups=int(usable_G.sum()),
        n_rows=int(weight_G.sum()),
    )


def calibration(labels: ArrayLike, probabilities: ArrayLike, n_bins: int = 15) -> Calibration:
    """Return the expected calibration error over bins of equal mass; errors as for `log_loss`.

    The error of a bin is `|mean probability - share of clicks|`. The result is the mean over bins,
    weighted by rows (Naeini, Cooper, Hauskrecht, AAAI 2015, whose bins have equal width instead).
    """
    positive_N, probabilities_N = _checked_probabilities(labels, probabilities)
    _, bin_N = np.unique(equal_mass_bins(probabilities_N, n_bins), return_inverse=True)
    n_rows_K = np.bincount(bin_N)
    clicks_K = np.bincount(bin_N, probabilities_N)  # expected clicks by bin

    def error(positive_N: np.ndarray) -> float:
        return float(np.abs(np.bincount(bin_N, positive_N) - clicks_K).sum() / len(bin_N))

    generator = np.random.default_rng(0)
    drawn = [error(generator.random(len(bin_N)) < probabilities_N) for _ in range(_REDRAWN)]
    share_K = np.bincount(bin_N, positive_N) / n_rows_K
    columns = ((clicks_K / n_rows_K).tolist(), share_K.tolist(), n_rows_K.tolist())
    return Calibration(
        error=error(positive_N),
        limit=float(np.quantile(drawn, 0.95)),
        bins=tuple(CalibrationBin(*row) for row in zip(*columns, strict=True)),
    )


def equal_mass_bins(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the bin of each value, `(N,) int64` in 0..n_bins - 1, ascending with the values.

    If all of the `(N,)` values differ, the bins hold equally many of them, to within one. Equal
    values always share a bin, so many equal values make a larger bin, and other bins may be empty.
    """
    return ((_midranks(values) - 0.5) * n_bins // len(values)).astype(np.int64)


_Components = tuple[np.ndarray, np.ndarray]
"""DeLong's structural components of the positive and of the negative rows. That of a row is the
share of rows of the other class that are ranked correctly relative to this row."""


def _components(labels: ArrayLike, scores: ArrayLike) -> _Components:
    positive_N, scores_N = _checked(labels, scores)
    ranks_N = _midranks(scores_N)
    positives, negatives = scores_N[positive_N], scores_N[~positive_N]
    # A row's rank among all rows minus its rank in its class counts the rows of the other class
    # that are below it.
    return (
        (ranks_N[positive_N] - _midranks(positives)) / len(negatives),
        1 - (ranks_N[~positive_N] - _midranks(negatives)) / len(positives),
    )


def _area(components: _Components) -> float:
    return float(components[0].mean())


def _covariance(a: _Components, b: _Components) -> float:
    return sum(
        float(np.dot(x - x.mean(), y - y.mean())) / (len(x) - 1) / len(x)
        for x, y in zip(a, b, strict=True)
        if len(x) > 1
    )


def _midranks(values_N: np.ndarray) -> np.ndarray:
    """Return 1-based ranks, `(N,) float64`; equal values share the mean of their ranks."""
    _, place_N, count_U = np.unique(values_N, return_inverse=True, return_counts=True)
    return (np.cumsum(count_U) - (count_U - 1) / 2)[place_N]


def _checked_probabilities(
    labels: ArrayLike, probabilities: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as booleans and probabilities as float64, or raise `MetricError`."""
    positive_N, probabilities_N = _checked(labels, probabilities, both_classes=False)
    wrong_N = (probabilities_N < 0) | (probabilities_N > 1)
    if wrong_N.any():
        row = int(np.argmax(wrong_N))
        raise MetricError(f"row {row}: {probabilities_N[row]} is not a probability in [0, 1]")
    return positive_N, probabilities_N.astype(np.float64)


def _checked(
    labels: ArrayLike, scores: ArrayLike, both_classes: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as booleans and scores unchanged, or raise `MetricError`."""
    labels_N, scores_N = np.asarray(labels), np.asarray(scores)
    if labels_N.ndim != 1 or labels_N.shape != scores_N.shape:
        raise MetricError(
            f"labels of shape {labels_N.shape} and scores of shape {scores_N.shape}; "
            "expected two equally long vectors"
        )
    if len(labels_N) == 0:
        raise MetricError("no rows: a metric needs at least one")
    finite_N = np.isfinite(scores_N)
    if not finite_N.all():
        row = int(np.argmin(finite_N))
        raise MetricError(
            f"{int((~finite_N).sum())} of {len(scores_N)} scores are not finite; "
            f"the first is {scores_N[row]}, in row {row} (counted from 0)"
        )
    positive_N = labels_N == 1
    wrong_N = ~positive_N & (labels_N != 0)
    if wrong_N.any():
        row = int(np.argmax(wrong_N))
        raise MetricError(f"row {row}: label {labels_N[row]!r} is neither 0 nor 1")
    if both_classes and positive_N.all() == positive_N.any():
        raise MetricError(
            f"all {len(labels_N)} labels are {int(positive_N[0])}: an AUC needs both classes"
        )
    return positive_N, scores_N
