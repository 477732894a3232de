"""Table of a comparison: `COLUMNS` defines its columns, `_measures` the numbers behind them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from mmctr_pipeline import metrics
from mmctr_pipeline.comparison.entries import Entry
from mmctr_pipeline.comparison.row import RowResult
from mmctr_pipeline.comparison.statistics import AucDifference, auc_difference, mean_interval
from mmctr_pipeline.files.markdown import escaped, table

_ENDED_BY = {
    "max_epochs": "all epochs",
    "patience": "early stopping",
    "max_minutes": "minutes",
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one row with one seed: a result with its scores, or the reason of a failure.

    `key` names the row's folder and `inputs` that of its `TrainingInputs`; `scores` are the
    probabilities of the reporting rows, `(N,)`.
    """

    seed: int
    key: str
    inputs: str
    result: RowResult | None = None
    scores: np.ndarray | None = None
    failure: str | None = None


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One row over its seeds; `measures` is empty if a seed failed.

    `behind` is the AUC of the first row minus that of this one, None for the first row itself.
    """

    name: str
    model: str
    outcomes: tuple[Outcome, ...]
    measures: dict[str, Any] = dataclasses.field(default_factory=dict)
    behind: AucDifference | None = None

    @classmethod
    def measure(cls, entry: Entry, outcomes: Sequence[Outcome], label: np.ndarray) -> Self:
        """Measure a row's scores against the labels `(N,)` of the reporting rows."""
        row = cls(entry.name, entry.preset.model.name, tuple(outcomes))
        if row.failure is not None:
            return row
        results = [outcome.result for outcome in outcomes if outcome.result is not None]
        return dataclasses.replace(row, measures=_measures(results, row.scores, label))

    @property
    def failure(self) -> str | None:
        """The reason of the first failed seed, or None."""
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
        behind = self.behind and dataclasses.asdict(self.behind)
        return {**mapping, **self.measures, "behind_first": behind}


def _measures(
    results: Sequence[RowResult], scores: Sequence[np.ndarray], label: np.ndarray
) -> dict[str, Any]:
    """Return a row's numbers: means over its seeds, or lists with one value per seed."""

    def each(name: str) -> list[Any]:
        return [getattr(result, name) for result in results]

    def mean(values: Sequence[float | None]) -> float | None:
        defined = [value for value in values if value is not None]
        return float(np.mean(defined)) if defined else None

    areas = [metrics.auc_interval(label, each) for each in scores]
    auc, low, high = mean_interval(areas)
    evaluations = each("evaluation")
    # Rows whose target is in no train row, if there are any with clicks and without.
    cold = [evaluation["by_popularity"][0]["auc"] for evaluation in evaluations]
    return {
        "auc": auc,
        "low": low,
        "high": high,
        "auc_by_seed": [area.auc for area in areas],
        "log_loss": mean([metrics.log_loss(label, each) for each in scores]),
        "auc_cold": mean([area and area["auc"] for area in cold]),
        "auc_by_user": mean([evaluation["by_user"]["auc"] for evaluation in evaluations]),
        "calibration_error": mean([e["calibration"]["error"] for e in evaluations]),
        "n_parameters": results[0].n_parameters,
        "peak_mb": max(each("peak_mb")),
        **{name: mean(each(name)) for name in ("rows_per_second", "seconds", "selection_auc")},
        **{name: each(name) for name in ("epochs", "best_epoch", "ended_by")},
    }


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: its heading, its value in a row that has not failed, and a format specification.

    A list is written with commas, None as an empty cell.
    """

    name: str
    value: Callable[[TableRow], Any]
    format: str = ""
    align: str = "right"

    def cell(self, row: TableRow) -> str:
        """Return the text of a row's cell."""
        value = self.value(row)
        values = value if isinstance(value, list) else [value]
        return ", ".join("" if each is None else format(each, self.format) for each in values)


def _endings(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(_ENDED_BY[value] for value in values))


COLUMNS = (
    Column("row", lambda row: row.name, align="left"),
    Column("model", lambda row: row.model, align="left"),
    Column("AUC", lambda row: "{auc:.4f} [{low:.4f}, {high:.4f}]".format_map(row.measures)),
    Column("first minus this", lambda row: row.behind),
    Column("cold AUC", lambda row: row.measures["auc_cold"], ".4f"),
    Column("log-loss", lambda row: row.measures["log_loss"], ".4f"),
    Column("parameters", lambda row: row.measures["n_parameters"], ","),
    Column("rows/s", lambda row: row.measures["rows_per_second"], ",.0f"),
    Column("seconds", lambda row: row.measures["seconds"], ",.0f"),
    Column("peak MB", lambda row: row.measures["peak_mb"], ",.0f"),
    Column("epochs", lambda row: [round(n, 2) for n in row.measures["epochs"]], "g"),
    Column("best epoch", lambda row: [round(n, 2) for n in row.measures["best_epoch"]], "g"),
    Column("ended by", lambda row: _endings(row.measures["ended_by"])),
)


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """All rows, measured on the same reporting rows; failed rows are last.

    `pairs` holds further comparisons by the names of both rows.
    """

    rows: tuple[TableRow, ...]
    n_reporting_rows: int
    pairs: dict[str, AucDifference]

    @classmethod
    def compare(
        cls,
        rows: Sequence[TableRow],
        label: np.ndarray,
        by_auc: bool = False,
        pairs: Sequence[tuple[str, str]] = (),
    ) -> Self:
        """Compare the first row that has not failed with each of the others, and `pairs`.

        Parameters
        ----------
        rows
            Measured rows.
        label
            Labels `(N,)` of the reporting rows.
        by_auc
            Order the rows by AUC, the best first, before comparing.
        pairs
            Names of rows to compare in addition; pairs with a failed row are left out.
        """
        done = [row for row in rows if row.measures]
        if by_auc:
            done.sort(key=lambda row: -row.measures["auc"])
        compared = done[:1] + [
            dataclasses.replace(row, behind=auc_difference(label, done[0].scores, row.scores))
            for row in done[1:]
        ]
        scores = {row.name: row.scores for row in done}
        differences = {
            f"{first} - {second}": auc_difference(label, scores[first], scores[second])
            for first, second in pairs
            if first in scores and second in scores
        }
        failed = [row for row in rows if not row.measures]
        return cls((*compared, *failed), len(label), differences)

    @property
    def failures(self) -> dict[str, str]:
        """The failed rows with their reasons."""
        return {row.name: row.failure for row in self.rows if row.failure is not None}

    def markdown(self) -> list[str]:
        """Return the lines of a Markdown table, followed by pairs and reasons of failures."""
        cells = [
            [escaped(column.cell(row)) for column in COLUMNS]
            if row.measures
            else [escaped(row.name), escaped(row.model), "failed"]
            for row in self.rows
        ]
        lines = table(
            [column.name for column in COLUMNS], cells, "".join(c.align[0] for c in COLUMNS)
        ).splitlines()
        notes = [
            f"{names}: {paired}" + ("" if paired.p_value is None else f", p = {paired.p_value:.2g}")
            for names, paired in self.pairs.items()
        ]
        notes += [f"{name} failed: {reason}" for name, reason in self.failures.items()]
        return [*lines, *(line for note in notes for line in ("", escaped(note)))]

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars."""
        return {
            "n_reporting_rows": self.n_reporting_rows,
            "rows": [row.to_mapping() for row in self.rows],
            "pairs": {names: dataclasses.asdict(paired) for names, paired in self.pairs.items()},
        }
