"""Whether one method beats another: their paired AUC difference over seeds, and its verdict."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

from mmctr_pipeline.metrics import compare_auc

MARGIN = 0.003
"""A lower end of the interval above minus this counts as not worse."""

MIN_VALID_ROWS = 50_000
"""Valid rows that a verdict needs."""


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Mean paired AUC difference of two methods over seeds, with its 95 % interval.

    The interval holds both causes of chance: the half-width is the root of the summed squares of
    the t interval over seeds and of the normal interval over valid rows. The latter takes the
    mean of the seeds' DeLong variances, which is at least the variance of the mean, since all
    seeds are measured on the same rows. `verdict` is `better` (low above 0), `not worse` (low
    above -0.003), `neither`, or `too few rows`.
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
        """What the interval says."""
        if self.n_valid_rows < MIN_VALID_ROWS:
            return "too few rows"
        if self.low > 0:
            return "better"
        return "not worse" if self.low > -MARGIN else "neither"

    @property
    def is_equal(self) -> bool:
        """Whether both ends lie within 0.003 of zero, on as many rows as a verdict needs."""
        within = max(abs(self.low), abs(self.high)) < MARGIN
        return within and self.n_valid_rows >= MIN_VALID_ROWS


def paired_difference(
    label: np.ndarray, first: Sequence[np.ndarray], second: Sequence[np.ndarray]
) -> PairedDifference:
    """Return the mean AUC difference of the first less the second over seeds, with its interval.

    Raises `ValueError` for fewer than two seeds, or not as many in both.
    """
    n_seeds = len(first)
    if n_seeds < 2 or len(second) != n_seeds:
        raise ValueError(f"{n_seeds} and {len(second)} seeds; expected equally many, two at least")
    compared = [compare_auc(label, a, b) for a, b in zip(first, second, strict=True)]
    differences = np.array([comparison.difference for comparison in compared])
    seed_error = float(differences.std(ddof=1)) / math.sqrt(n_seeds)
    row_error = math.sqrt(float(np.mean([c.standard_error**2 for c in compared])))
    quantile = scipy.stats.t.ppf(0.975, n_seeds - 1), scipy.stats.norm.ppf(0.975)
    half_width = math.hypot(quantile[0] * seed_error, quantile[1] * row_error)
    mean = float(differences.mean())
    return PairedDifference(
        difference=mean,
        low=mean - half_width,
        high=mean + half_width,
        seed_standard_error=seed_error,
        row_standard_error=row_error,
        n_seeds=n_seeds,
        n_valid_rows=len(label),
    )
