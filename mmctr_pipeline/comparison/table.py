"""Table of a comparison; `COLUMNS` defines its columns."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from mmctr_pipeline.comparison.statistics import AucDifference, auc_difference
from mmctr_pipeline.comparison.table_row import ReportingRows, TableRow
from mmctr_pipeline.files.markdown import escaped, table

_ENDED_BY = {
    "max_epochs": "all epochs",
    "patience": "early stopping",
    "max_minutes": "minutes",
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
        return ", ".join("" if item is None else format(item, self.format) for item in values)


def _endings(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(_ENDED_BY[value] for value in values))


COLUMNS = (
    Column("row", lambda row: row.name, align="left"),
    Column("model", lambda row: row.model, align="left"),
    Column("AUC", lambda row: "{auc:.4f} [{low:.4f}, {high:.4f}]".format_map(row.measures)),
    Column("first minus this", lambda row: row.behind),
    Column("cold AUC", lambda row: row.measures["auc_cold"], ".4f"),
    Column("first minus this, cold", lambda row: row.behind_cold),
    Column("log-loss", lambda row: row.measures["log_loss"], ".4f"),
    Column("calibration error", lambda row: row.measures["calibration_error"], ".4f"),
    Column("calibration error by chance", lambda row: row.measures["calibration_limit"], ".4f"),
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

    `pairs` holds further comparisons by the names of both rows, `baselines` the rows of the trivial
    baselines. `undefined` says, by name, why the other baselines have no row.
    """

    rows: tuple[TableRow, ...]
    n_reporting_rows: int
    pairs: dict[str, AucDifference]
    baselines: tuple[TableRow, ...] = ()
    undefined: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def compare(
        cls,
        rows: Sequence[TableRow],
        reporting: ReportingRows,
        by_auc: bool = False,
        pairs: Sequence[tuple[str, str]] = (),
        baselines: Sequence[TableRow] = (),
        undefined: Mapping[str, str] | None = None,
    ) -> Self:
        """Compare the first row that has not failed with each of the others, and compare `pairs`.

        Parameters
        ----------
        rows
            Measured rows.
        reporting
            The rows that were scored.
        by_auc
            Order the rows by AUC, the best first, before comparing.
        pairs
            Names of rows to compare in addition; pairs with a failed row are left out.
        baselines
            Measured rows of the baselines.
        undefined
            Why the other baselines have no row, by name.
        """
        done = [row for row in rows if row.measures]
        if by_auc:
            done.sort(key=lambda row: -row.measures["auc"])
        others = done[1:]
        if done:
            others = [row.compared_with(done[0], reporting) for row in others]
            baselines = [row.compared_with(done[0], reporting) for row in baselines]
        scores = {row.name: row.scores for row in done}
        differences = {
            f"{first} - {second}": auc_difference(reporting.label, scores[first], scores[second])
            for first, second in pairs
            if first in scores and second in scores
        }
        failed = [row for row in rows if not row.measures]
        return cls(
            rows=(*done[:1], *others, *failed),
            n_reporting_rows=len(reporting.label),
            pairs=differences,
            baselines=tuple(baselines),
            undefined=dict(undefined or {}),
        )

    @property
    def failures(self) -> dict[str, str]:
        """The failed rows with their reasons."""
        return {row.name: row.failure for row in self.rows if row.failure is not None}

    def markdown(self) -> list[str]:
        """Return the lines of a Markdown table, then pairs, failures and undefined baselines."""
        cells = [
            [escaped(column.cell(row)) for column in COLUMNS]
            if row.measures
            else [escaped(row.name), escaped(row.model), "failed"]
            for row in (*self.rows, *self.baselines)
        ]
        lines = table(
            [column.name for column in COLUMNS], cells, "".join(c.align[0] for c in COLUMNS)
        ).splitlines()
        notes = [
            f"{names}: {paired}" + ("" if paired.p_value is None else f", p = {paired.p_value:.2g}")
            for names, paired in self.pairs.items()
        ]
        notes += [f"{name} failed: {reason}" for name, reason in self.failures.items()]
        notes += [f"no baseline {name}: {reason}" for name, reason in self.undefined.items()]
        return [*lines, *(line for note in notes for line in ("", escaped(note)))]

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars."""
        return {
            "n_reporting_rows": self.n_reporting_rows,
            "rows": [row.to_mapping() for row in self.rows],
            "baselines": [row.to_mapping() for row in self.baselines],
            "undefined_baselines": self.undefined,
            "pairs": {names: dataclasses.asdict(paired) for names, paired in self.pairs.items()},
        }
