"""Compare a challenger with the champion by their scores of the same rows."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from mmctr_pipeline import metrics
from mmctr_pipeline.registry.config import PromotionConfig

SIGNIFICANCE = 0.05
_POWER_80 = 0.8416212335729143
"""Quantile of the standard normal distribution at 80 %."""


@dataclasses.dataclass(frozen=True)
class PairedAuc:
    """AUCs of challenger and another model on the same rows.

    `difference` is that of the challenger minus the other, `standard_error` that of the difference
    (DeLong), and `low` the lower end of its one-sided 95 % interval.
    """

    name: str
    n_rows: int
    challenger: float
    other: float
    difference: float
    standard_error: float
    low: float

    def p_worse_than(self, margin: float) -> float:
        """Return the p-value against "the challenger is worse by at most `margin`"."""
        above = self.difference + margin
        if self.standard_error == 0:
            return float(above >= 0)
        return 0.5 * math.erfc(-above / self.standard_error / math.sqrt(2))


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """A challenger compared with the champion.

    `problems` are the reasons not to promote the challenger, one sentence each; none means that it
    may be promoted. `best` compares it with the best model ever promoted, and is None if that is
    the champion. `slices` are those with enough rows of both classes. `detectable` is the true
    difference at which a challenger is promoted with a probability of 80 % on these rows, as far as
    the margin decides.
    """

    whole: PairedAuc
    best: PairedAuc | None
    slices: tuple[PairedAuc, ...]
    problems: tuple[str, ...]
    detectable: float


def compare_models(
    label: np.ndarray,
    challenger: np.ndarray,
    champion: np.ndarray,
    best: np.ndarray | None,
    slices: Mapping[str, np.ndarray],
    config: PromotionConfig,
) -> ModelComparison:
    """Compare a challenger with the champion, and with the best model ever promoted.

    The challenger must not be worse than the champion by more than the margin, nor than the best
    model by more than two margins: the lower end of the one-sided 95 % interval of the difference,
    by paired DeLong, must be above minus that. It must not be significantly worse on a slice by
    more than the slice margin; p-values are corrected for the number of slices (Holm).

    Raises `MetricError` if the labels are of one class, or a score is not finite.

    Parameters
    ----------
    label
        Labels of N rows, `(N,)` of 0 and 1.
    challenger, champion
        Scores of these rows, `(N,)`.
    best
        Scores by the best model ever promoted, or None if that is the champion.
    slices
        Rows of each slice, `(N,) bool`.
    config
        Margins.
    """
    whole = paired_auc("all rows", label, challenger, champion)
    against_best = None if best is None else paired_auc("all rows", label, challenger, best)
    found = [
        paired_auc(name, label[rows], challenger[rows], champion[rows])
        for name, rows in slices.items()
        if rows.sum() >= config.min_slice_rows and _has_both(label[rows])
    ]
    problems = _problems(whole, "the champion", config.margin)
    if against_best is not None:
        problems += _problems(against_best, "the best model ever promoted", 2 * config.margin)
    problems += _worse_slices(found, config.slice_margin)
    z = metrics.NORMAL_95 + _POWER_80
    return ModelComparison(
        whole=whole,
        best=against_best,
        slices=tuple(found),
        problems=tuple(problems),
        detectable=z * whole.standard_error - config.margin,
    )


def paired_auc(
    name: str, label: np.ndarray, challenger: np.ndarray, other: np.ndarray
) -> PairedAuc:
    """Compare two vectors of scores `(N,)` of the same rows; raises the errors of `compare_auc`."""
    paired = metrics.compare_auc(label, challenger, other)
    return PairedAuc(
        name=name,
        n_rows=len(label),
        challenger=metrics.auc(label, challenger),
        other=metrics.auc(label, other),
        difference=paired.difference,
        standard_error=paired.standard_error,
        low=paired.one_sided_low,
    )


def _problems(found: PairedAuc, whom: str, margin: float) -> list[str]:
    if found.low > -margin:
        return []
    return [
        f"AUC {found.challenger:.4f} against {found.other:.4f} of {whom}: difference "
        f"{found.difference:+.4f}, lower end {found.low:+.4f}, not above {-margin:.4f}"
    ]


def _worse_slices(slices: list[PairedAuc], margin: float) -> list[str]:
    """Return a sentence for each slice on which the challenger is significantly worse (Holm)."""
    by_p = sorted((each.p_worse_than(margin), each.name, each) for each in slices)
    problems = []
    for rank, (p_value, name, each) in enumerate(by_p):
        corrected = p_value * (len(by_p) - rank)
        if corrected >= SIGNIFICANCE:
            break
        problems.append(
            f"{name} ({each.n_rows:,} rows): AUC {each.challenger:.4f} against {each.other:.4f} of "
            f"the champion, worse by more than {margin:.4f} (p = {corrected:.2g}, corrected for "
            f"{len(by_p)} slices)"
        )
    return problems


def _has_both(label: np.ndarray) -> bool:
    n_positive = int((label == 1).sum())
    return min(n_positive, len(label) - n_positive) >= 2
