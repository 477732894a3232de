"""Statistics of a comparison: intervals over seeds and rows, paired differences and verdicts."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

from mmctr_pipeline import metrics

MARGIN = 0.003
"""A difference is "not worse" if the lower end of its interval is above -MARGIN."""

MIN_ROWS_BETTER, MIN_ROWS_BETTER_SLICE = 5_000, 1_000
"""Numbers of valid rows that the verdict "better" needs: for a difference on all valid rows, and
for a difference on a slice of them, such as the rows with a cold target."""

MIN_ROWS_NOT_WORSE = 50_000
"""Number of valid rows that "not worse" and "equal" need; it is large since MARGIN is small."""

_TOO_FEW_ROWS = "too few rows"


@dataclasses.dataclass(frozen=True)
class AucDifference:
    """The difference of two AUCs on the same rows, with its 95 % interval.

    With one seed, the interval and the two-sided `p_value` are those of DeLong's paired test. With
    several seeds, `difference` is the mean over seeds, and there is a `verdict` (by the function of
    that name) instead of a `p_value`. `n_rows` is the number of rows.
    """

    difference: float
    low: float
    high: float
    n_rows: int
    verdict: str | None = None
    p_value: float | None = None

    @property
    def is_equal(self) -> bool:
        """True if, with several seeds and enough rows, both ends are less than 0.003 from 0."""
        within = max(abs(self.low), abs(self.high)) < MARGIN
        return within and self.verdict is not None and self.n_rows >= MIN_ROWS_NOT_WORSE

    def __str__(self) -> str:
        note = "" if self.verdict is None else f" {self.verdict}"
        return f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]{note}"


def verdict(low: float, n_rows: int, is_slice: bool = False) -> str:
    """Return what a difference on `n_rows` valid rows shows; `low` is where its interval begins.

    That is `better` (low above 0), `not worse` (low above -0.003), `neither`, or `too few rows`.
    `better` needs 5,000 rows, or 1,000 if they are a slice of the valid rows. `not worse` and
    `neither` need 50,000.
    """
    if low > 0 and n_rows >= (MIN_ROWS_BETTER_SLICE if is_slice else MIN_ROWS_BETTER):
        return "better"
    if n_rows < MIN_ROWS_NOT_WORSE:
        return _TOO_FEW_ROWS
    return "not worse" if low > -MARGIN else "neither"


def paired_difference(
    label: np.ndarray,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    is_slice: bool = False,
) -> AucDifference:
    """Return the mean over seeds of the first AUC minus the second, with interval and verdict.

    Raises `ValueError` for fewer than two seeds, or different numbers of seeds.

    Parameters
    ----------
    label
        Labels of the rows, `(N,)`.
    first, second
        Scores of the two methods, one array `(N,)` per seed. Both have the same order of seeds.
    is_slice
        Whether the rows are a slice of all rows, such as those of cold items.
    """
    n_seeds = len(first)
    if n_seeds < 2 or len(second) != n_seeds:
        raise ValueError(f"{n_seeds} and {len(second)} seeds; expected equally many, at least two")
    compared = [metrics.compare_auc(label, a, b) for a, b in zip(first, second, strict=True)]
    mean, half_width = _mean_over_seeds(
        [comparison.difference for comparison in compared],
        [comparison.standard_error for comparison in compared],
    )
    low, high = mean - half_width, mean + half_width
    n_rows = len(label)
    return AucDifference(mean, low, high, n_rows, verdict(low, n_rows, is_slice))


def auc_difference(
    label: np.ndarray,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    is_slice: bool = False,
) -> AucDifference:
    """Compare two methods as `paired_difference` does; one seed each is enough.

    Parameters
    ----------
    label, first, second, is_slice
        As in `paired_difference`.
    """
    if len(first) == len(second) == 1:
        one = metrics.compare_auc(label, first[0], second[0])
        return AucDifference(one.difference, one.low, one.high, len(label), p_value=one.p_value)
    return paired_difference(label, first, second, is_slice)


def mean_interval(areas: Sequence[metrics.AucInterval]) -> tuple[float, float, float]:
    """Return the mean AUC over seeds and the ends of its 95 % interval, within [0, 1]."""
    if len(areas) == 1:
        return areas[0].auc, areas[0].low, areas[0].high
    mean, half_width = _mean_over_seeds(
        [area.auc for area in areas], [area.standard_error for area in areas]
    )
    return mean, max(mean - half_width, 0.0), min(mean + half_width, 1.0)


def _mean_over_seeds(
    values: Sequence[float], standard_errors: Sequence[float]
) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % interval.

    The half-width covers two sources of chance, the seed and the choice of rows. It is the square
    root of the sum of two squares: those of the half-widths of the t interval over seeds and of the
    normal interval over rows. The variance over rows is the mean of the seeds' DeLong variances. It
    is not divided by the number of seeds, because all seeds are measured on the same rows.
    """
    n_seeds = len(values)
    seed_error = float(np.std(values, ddof=1)) / math.sqrt(n_seeds)
    row_error = math.sqrt(float(np.mean(np.square(standard_errors))))
    half_width = math.hypot(
        scipy.stats.t.ppf(0.975, n_seeds - 1) * seed_error, scipy.stats.norm.ppf(0.975) * row_error
    )
    return float(np.mean(values)), half_width
