"""Rows of a table: the outcomes of a model or a baseline, and the numbers measured from them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from mmctr_pipeline import metrics
from mmctr_pipeline.comparison.row import RowResult
from mmctr_pipeline.comparison.statistics import AucDifference, auc_difference, mean_interval


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one row with one seed: a result with its scores, or the reason for a failure.

    `key` names the row's folder, `inputs` the folder of its `TrainingInputs`. `scores` are those of
    the reporting rows, `(N,)`. In the outcome of a model they are probabilities.
    """

    seed: int
    key: str
    inputs: str
    result: RowResult | None = None
    scores: np.ndarray | None = None
    failure: str | None = None


@dataclasses.dataclass(frozen=True)
class ReportingRows:
    """The N valid rows that models are measured on.

    `label` is `(N,)`; `is_cold`, `(N,) bool`, is True for rows with a cold target.
    """

    label: np.ndarray
    is_cold: np.ndarray

    @property
    def cold_label(self) -> np.ndarray | None:
        """Labels of the rows with a cold target; None unless each class has at least two."""
        label = self.label[self.is_cold]
        n_clicks = int((label == 1).sum())
        return label if min(n_clicks, len(label) - n_clicks) >= 2 else None


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One row of the table: a model with all its seeds, or a baseline.

    `measures` is empty if a seed failed. `behind` is the AUC of the table's first row minus that of
    this row, or None in the first row itself. `behind_cold` is the same on the rows with a cold
    target. It is also None if a class has fewer than two such rows.
    """

    name: str
    model: str
    outcomes: tuple[Outcome, ...]
    measures: dict[str, Any] = dataclasses.field(default_factory=dict)
    behind: AucDifference | None = None
    behind_cold: AucDifference | None = None

    @classmethod
    def measure(
        cls, name: str, model: str, outcomes: Sequence[Outcome], reporting: ReportingRows
    ) -> Self:
        """Measure a row's scores.

        Parameters
        ----------
        name, model
            Name of the row and kind of its model, as shown.
        outcomes
            One outcome per seed. The outcomes of a baseline have scores but no result.
        reporting
            The rows that were scored.
        """
        row = cls(name, model, tuple(outcomes))
        if row.failure is not None:
            return row
        results = [outcome.result for outcome in outcomes if outcome.result is not None]
        return dataclasses.replace(row, measures=_measures(results, row.scores, reporting))

    def compared_with(self, first: "TableRow", reporting: ReportingRows) -> "TableRow":
        """Return this row with its differences from the first row."""
        behind = auc_difference(reporting.label, first.scores, self.scores)
        behind_cold, label, is_cold = None, reporting.cold_label, reporting.is_cold
        if label is not None:
            first_cold = [scores[is_cold] for scores in first.scores]
            own_cold = [scores[is_cold] for scores in self.scores]
            behind_cold = auc_difference(label, first_cold, own_cold, is_slice=True)
        return dataclasses.replace(self, behind=behind, behind_cold=behind_cold)

    @property
    def failure(self) -> str | None:
        """Why the first failed seed failed, or None."""
        for outcome in self.outcomes:
            if outcome.failure is not None:
                seed = f"seed {outcome.seed}: " if len(self.outcomes) > 1 else ""
                return f"{seed}{outcome.failure}"
        return None

    @property
    def scores(self) -> list[np.ndarray]:
        """Scores by seed."""
        return [outcome.scores for outcome in self.outcomes if outcome.scores is not None]

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars."""
        mapping = {
            "row": self.name,
            "model": self.model,
            "seeds": [outcome.seed for outcome in self.outcomes],
            "keys": [outcome.key for outcome in self.outcomes],
            "inputs": [outcome.inputs for outcome in self.outcomes],
        }
        if self.failure is not None:
            return {**mapping, "failure": self.failure}
        differences = {"behind_first": self.behind, "behind_first_cold": self.behind_cold}
        plain = {
            name: difference and dataclasses.asdict(difference)
            for name, difference in differences.items()
        }
        return {**mapping, **self.measures, **plain}


def _measures(
    results: Sequence[RowResult], scores: Sequence[np.ndarray], reporting: ReportingRows
) -> dict[str, Any]:
    """Return a row's numbers: a mean over its seeds, the largest (`peak_mb`), or a list by seed.

    A baseline has no results, and its scores are not probabilities. Its numbers that need results
    or probabilities are None, or empty if they are lists.
    """

    def by_seed(name: str) -> list[Any]:
        return [getattr(result, name) for result in results]

    def mean(values: Sequence[float | None]) -> float | None:
        defined = [value for value in values if value is not None]
        return float(np.mean(defined)) if defined else None

    label, cold_label = reporting.label, reporting.cold_label
    areas = [metrics.auc_interval(label, of_seed) for of_seed in scores]
    auc, low, high = mean_interval(areas)
    evaluations = by_seed("evaluation")
    cold = []
    if cold_label is not None:
        cold = [metrics.auc(cold_label, of_seed[reporting.is_cold]) for of_seed in scores]
    log_losses = [metrics.log_loss(label, of_seed) for of_seed in scores] if results else []
    calibration_errors = [evaluation["calibration"]["error"] for evaluation in evaluations]
    return {
        "auc": auc,
        "low": low,
        "high": high,
        "auc_by_seed": [area.auc for area in areas],
        "log_loss": mean(log_losses),
        "auc_cold": mean(cold),
        "auc_by_user": mean([evaluation["by_user"]["auc"] for evaluation in evaluations]),
        "calibration_error": mean(calibration_errors),
        "calibration_limit": mean([e["calibration"]["limit"] for e in evaluations]),
        "n_parameters": results[0].n_parameters if results else None,
        "peak_mb": max(by_seed("peak_mb"), default=None),
        **{name: mean(by_seed(name)) for name in ("rows_per_second", "seconds", "selection_auc")},
        **{name: by_seed(name) for name in ("epochs", "best_epoch", "ended_by")},
    }
