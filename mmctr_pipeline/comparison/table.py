"""The leaderboard's table: each preset's numbers, and what the first is ahead by."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import scipy.stats

from mmctr_pipeline import metrics
from mmctr_pipeline.comparison.row import RowResult
from mmctr_pipeline.comparison.statistics import paired_difference


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one preset under one seed: a result with its scores, or why there is none.

    `key` names the row's folder; `scores` are the probabilities of the reporting half, `(N,)`.
    """

    seed: int
    key: str
    result: RowResult | None = None
    scores: np.ndarray | None = None
    failure: str | None = None


@dataclasses.dataclass(frozen=True)
class AucDifference:
    """An AUC less another on the same rows, with its 95 % interval.

    By DeLong's paired test for one seed; for several by `paired_difference`, whose `verdict` it
    then has.
    """

    difference: float
    low: float
    high: float
    verdict: str | None = None


def auc_difference(
    label: np.ndarray, first: Sequence[np.ndarray], second: Sequence[np.ndarray]
) -> AucDifference:
    """Compare the scores `(N,)` of two scorers, one array per seed in the same order of seeds."""
    if len(first) == len(second) == 1:
        single = metrics.compare_auc(label, first[0], second[0])
        return AucDifference(single.difference, single.low, single.high)
    paired = paired_difference(label, first, second)
    return AucDifference(paired.difference, paired.low, paired.high, paired.verdict)


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One preset: means over its seeds, AUC by seed too, the largest memory; or why it failed.

    `behind` is the AUC of the first row less that of this one, None in the first row itself.
    """

    name: str
    model: str
    outcomes: tuple[Outcome, ...]
    auc: float = math.nan
    low: float = math.nan
    high: float = math.nan
    auc_by_seed: tuple[float, ...] = ()
    log_loss: float = math.nan
    behind: AucDifference | None = None

    @classmethod
    def of(cls, name: str, model: str, outcomes: Sequence[Outcome], label: np.ndarray) -> Self:
        """Measure the scores of all seeds; nothing is measured where a seed failed."""
        row = cls(name, model, tuple(outcomes))
        if row.failure is not None:
            return row
        areas = [metrics.auc_interval(label, scores) for scores in row.scores]
        mean, low, high = _mean_interval(areas)
        log_loss = float(np.mean([metrics.log_loss(label, scores) for scores in row.scores]))
        return dataclasses.replace(
            row,
            auc=mean,
            low=low,
            high=high,
            auc_by_seed=tuple(area.auc for area in areas),
            log_loss=log_loss,
        )

    @property
    def failure(self) -> str | None:
        """Why the first seed that failed did so, None where none has."""
        failed = [outcome for outcome in self.outcomes if outcome.failure is not None]
        if not failed:
            return None
        seed = f"seed {failed[0].seed}: " if len(self.outcomes) > 1 else ""
        return f"{seed}{failed[0].failure}"

    @property
    def scores(self) -> list[np.ndarray]:
        """The scores by seed."""
        return [outcome.scores for outcome in self.outcomes if outcome.scores is not None]

    @property
    def results(self) -> list[RowResult]:
        """The results by seed."""
        return [outcome.result for outcome in self.outcomes if outcome.result is not None]

    def mean(self, name: str) -> float:
        """Return the mean of a number of the results over the seeds."""
        return float(np.mean([getattr(result, name) for result in self.results]))

    def mean_evaluated(self, what: Callable[[dict[str, Any]], float | None]) -> float | None:
        """Return the mean over seeds of `what` an evaluation says, None where it says nothing."""
        values = [what(result.evaluation) for result in self.results]
        defined = [value for value in values if value is not None]
        return float(np.mean(defined)) if defined else None

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars."""
        identified = {
            "preset": self.name,
            "model": self.model,
            "seeds": [outcome.seed for outcome in self.outcomes],
            "keys": [outcome.key for outcome in self.outcomes],
        }
        if self.failure is not None:
            return {**identified, "failure": self.failure}
        return {
            **identified,
            "auc": self.auc,
            "low": self.low,
            "high": self.high,
            "auc_by_seed": list(self.auc_by_seed),
            "log_loss": self.log_loss,
            "behind_first": dataclasses.asdict(self.behind) if self.behind else None,
            "code": [result.code for result in self.results],
            "n_parameters": self.results[0].n_parameters,
            "rows_per_second": self.mean("rows_per_second"),
            "seconds": self.mean("seconds"),
            "peak_mb": max(result.peak_mb for result in self.results),
            "epochs": [result.epochs for result in self.results],
            "best_epoch": [result.best_epoch for result in self.results],
            "ended_by": [result.ended_by for result in self.results],
            "selection_auc": self.mean("selection_auc"),
            "auc_cold": self.mean_evaluated(_cold_auc),
            "auc_by_user": self.mean_evaluated(lambda evaluation: evaluation["by_user"]["auc"]),
            "calibration_error": self.mean_evaluated(
                lambda evaluation: evaluation["calibration"]["error"]
            ),
        }

    def cells(self) -> list[str]:
        """Return the row as it stands in the table."""
        if self.failure is not None:
            return [self.name, self.model, f"failed: {self.failure}", *[""] * (len(_HEAD) - 3)]
        results = self.results
        return [
            self.name,
            self.model,
            f"{self.auc:.4f} [{self.low:.4f}, {self.high:.4f}]",
            "" if self.behind is None else _difference(self.behind),
            "" if (cold := self.mean_evaluated(_cold_auc)) is None else f"{cold:.4f}",
            f"{self.log_loss:.4f}",
            f"{results[0].n_parameters:,}",
            f"{self.mean('rows_per_second'):,.0f}",
            f"{self.mean('seconds'):,.0f}",
            f"{max(result.peak_mb for result in results):,.0f}",
            ", ".join(f"{round(result.epochs, 2):g}" for result in results),
            ", ".join(f"{round(result.best_epoch, 2):g}" for result in results),
            ", ".join(dict.fromkeys(_ENDED_BY[result.ended_by] for result in results)),
        ]


def _cold_auc(evaluation: dict[str, Any]) -> float | None:
    """Return the AUC of the rows whose target stands in no train row, None without one."""
    interval = evaluation["by_popularity"][0]["auc"]
    return None if interval is None else float(interval["auc"])


_HEAD = (
    "preset",
    "model",
    "AUC",
    "first less this",
    "cold AUC",
    "log-loss",
    "parameters",
    "rows/s",
    "seconds",
    "peak MB",
    "epochs",
    "best epoch",
    "ended by",
)
_N_LEFT_ALIGNED = 2
_ENDED_BY = {
    "max_epochs": "all epochs",
    "patience": "early stopping",
    "max_minutes": "minutes",
}


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """All rows, measured on the same rows of the reporting half of the valid users."""

    rows: tuple[TableRow, ...]
    n_reporting_rows: int
    inputs: str

    @classmethod
    def of(
        cls, rows: Sequence[TableRow], label: np.ndarray, inputs: str, by_auc: bool = False
    ) -> Self:
        """Compare the first row that has not failed with each of the others.

        The rows keep their order, or are ordered `by_auc`, the best first; failed ones go last.
        `inputs` is the key of the `TrainingInputs`.
        """
        done = [row for row in rows if row.failure is None]
        if by_auc:
            done.sort(key=lambda row: -row.auc)
        compared = done[:1] + [
            dataclasses.replace(row, behind=auc_difference(label, done[0].scores, row.scores))
            for row in done[1:]
        ]
        failed = [row for row in rows if row.failure is not None]
        return cls((*compared, *failed), len(label), inputs)

    @property
    def failed(self) -> list[str]:
        """Names of the rows that failed."""
        return [row.name for row in self.rows if row.failure is not None]

    def markdown(self) -> list[str]:
        """Return the lines of a Markdown table, its columns aligned."""
        cells = [list(_HEAD), *(row.cells() for row in self.rows)]
        # A failed row's reason runs on over the cells beside it, which would widen the column.
        widths = [
            max(len(row[column]) for row in cells if not row[2].startswith("failed: "))
            for column in range(len(_HEAD))
        ]
        rule = ["-" * width if n < _N_LEFT_ALIGNED else "-" * (width - 1) + ":"
                for n, width in enumerate(widths)]  # fmt: skip
        lines = [cells[0], rule, *cells[1:]]
        return [
            "| "
            + " | ".join(
                cell.ljust(width) if n < _N_LEFT_ALIGNED else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            + " |"
            for line in lines
        ]

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars."""
        return {
            "inputs": self.inputs,
            "n_reporting_rows": self.n_reporting_rows,
            "rows": [row.to_mapping() for row in self.rows],
        }


def _difference(difference: AucDifference) -> str:
    verdict = f" {difference.verdict}" if difference.verdict else ""
    return f"{difference.difference:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]{verdict}"


def _mean_interval(areas: Sequence[metrics.AucInterval]) -> tuple[float, float, float]:
    """Return the mean AUC over seeds with its 95 % interval, over rows and, if several, seeds.

    As in `paired_difference`, the half-width is the root of the summed squares of both.
    """
    if len(areas) == 1:
        return areas[0].auc, areas[0].low, areas[0].high
    values = np.array([area.auc for area in areas])
    mean, seed_error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    row_error = math.sqrt(float(np.mean([area.standard_error**2 for area in areas])))
    of_seeds = scipy.stats.t.ppf(0.975, len(values) - 1) * seed_error
    half_width = math.hypot(of_seeds, scipy.stats.norm.ppf(0.975) * row_error)
    return mean, max(mean - half_width, 0.0), min(mean + half_width, 1.0)
