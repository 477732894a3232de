"""Statistics of a comparison: intervals over seeds and rows, paired differences and verdicts."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

from mmctr_pipeline.metrics import AucInterval, compare_auc

MARGIN = 0.003
"""An interval whose lower end is above minus this counts as not worse."""

MIN_VALID_ROWS = 50_000
"""Valid rows that a verdict needs."""


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Mean paired AUC difference of two methods over seeds, with its 95 % interval.

    `verdict` is `better` (low above 0), `not worse` (low above -0.003), `neither`, or `too few
    rows`.
    """

    difference: float
    low: float
    high: float
    seed_standard_error: float
    row_standard_error: float
    n_seeds: int
    n_valid_rows: int

    @property
    def verdict(self) -> str:
        """What the interval shows."""
        if self.n_valid_rows < MIN_VALID_ROWS:
            return "too few rows"
        if self.low > 0:
            return "better"
        return "not worse" if self.low > -MARGIN else "neither"

    @property
    def is_equal(self) -> bool:
        """Whether both ends are within 0.003 of zero, on as many rows as a verdict needs."""
        within = max(abs(self.low), abs(self.high)) < MARGIN
        return within and self.n_valid_rows >= MIN_VALID_ROWS


@dataclasses.dataclass(frozen=True)
class AucDifference:
    """The difference of two AUCs on the same rows, with its 95 % interval.

    One seed gives DeLong's paired test with its two-sided `p_value`; several seeds give
    `paired_difference` with its `verdict`.
    """

    difference: float
    low: float
    high: float
    verdict: str | None = None
    p_value: float | None = None

    def __str__(self) -> str:
        note = "" if self.verdict is None else f" {self.verdict}"
        return f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]{note}"


def paired_difference(
    label: np.ndarray, first: Sequence[np.ndarray], second: Sequence[np.ndarray]
) -> PairedDifference:
    """Return the mean over seeds of the first AUC less the second, with its interval.

    `label` is `(N,)`; `first` and `second` are scores `(N,)`, one array per seed in the same order
    of seeds. Raises `ValueError` for fewer than two seeds, or different numbers of seeds.
    """
    n_seeds = len(first)
    if n_seeds < 2 or len(second) != n_seeds:
        raise ValueError(f"{n_seeds} and {len(second)} seeds; expected equally many, two at least")
    compared = [compare_auc(label, a, b) for a, b in zip(first, second, strict=True)]
    mean, half_width, seed_error, row_error = _mean_over_seeds(
        [comparison.difference for comparison in compared],
        [comparison.standard_error for comparison in compared],
    )
    return PairedDifference(
        difference=mean,
        low=mean - half_width,
        high=mean + half_width,
        seed_standard_error=seed_error,
        row_standard_error=row_error,
        n_seeds=n_seeds,
        n_valid_rows=len(label),
    )


def auc_difference(
    label: np.ndarray, first: Sequence[np.ndarray], second: Sequence[np.ndarray]
) -> AucDifference:
    """Compare two methods as `paired_difference` does; one seed each is enough."""
    if len(first) == len(second) == 1:
        single = compare_auc(label, first[0], second[0])
        return AucDifference(single.difference, single.low, single.high, p_value=single.p_value)
    paired = paired_difference(label, first, second)
    return AucDifference(paired.difference, paired.low, paired.high, paired.verdict)


def mean_interval(areas: Sequence[AucInterval]) -> tuple[float, float, float]:
    """Return the mean AUC over seeds and the ends of its 95 % interval, within [0, 1]."""
    if len(areas) == 1:
        return areas[0].auc, areas[0].low, areas[0].high
    mean, half_width, _, _ = _mean_over_seeds(
        [area.auc for area in areas], [area.standard_error for area in areas]
    )
    return mean, max(mean - half_width, 0.0), min(mean + half_width, 1.0)


def _mean_over_seeds(
    values: Sequence[float], standard_errors: Sequence[float]
) -> tuple[float, float, float, float]:
    """Return mean, half-width of its 95 % interval, and standard errors over seeds and over rows.

    The half-width covers both sources of chance: it is the root of the summed squares of the
    t interval over seeds and the normal interval over rows. The latter takes the mean of the seeds'
    DeLong variances, an upper bound on the variance of the mean, since all seeds are measured on
    the same rows.
    """
    n_seeds = len(values)
    seed_error = float(np.std(values, ddof=1)) / math.sqrt(n_seeds)
    row_error = math.sqrt(float(np.mean(np.square(standard_errors))))
    half_width = math.hypot(
        scipy.stats.t.ppf(0.975, n_seeds - 1) * seed_error, scipy.stats.norm.ppf(0.975) * row_error
    )
    return float(np.mean(values)), half_width, seed_error, row_error
