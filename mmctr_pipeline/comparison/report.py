"""The leaderboard on paper: a table in Markdown, the same as JSON, and a picture."""

import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmctr_pipeline.comparison.table import Leaderboard
from mmctr_pipeline.files.atomic import atomic_write


def write_report(
    board: Leaderboard, folder: Path, name: str, heading: str, best_possible: float | None
) -> list[str]:
    """Write `<name>.md`, `<name>.json` and `<name>.png` into `folder`; return the first's lines.

    `best_possible` is the AUC that no model is expected to beat, None where it is not known.
    """
    lines = [heading, "", *board.markdown()]
    if best_possible is not None:
        lines += ["", f"Best possible AUC on the same rows: {best_possible:.4f}."]
    content = {"heading": heading, "best_possible_auc": best_possible, **board.to_mapping()}
    with atomic_write(folder / f"{name}.md") as temporary:
        temporary.write_text("\n".join([*lines, "", f"![AUC]({name}.png)", ""]), encoding="utf-8")
    with atomic_write(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    with atomic_write(folder / f"{name}.png") as temporary:
        _draw(board, best_possible, temporary)
    return lines


def _draw(board: Leaderboard, best_possible: float | None, path: Path) -> None:
    """Draw a point and an interval for each row that has not failed, the first row on top."""
    rows = [row for row in board.rows if row.failure is None]
    figure = Figure(figsize=(7, 1.2 + 0.34 * len(rows)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        axes.plot([row.low, row.high], [place, place], color="tab:blue", linewidth=2)
        axes.plot(row.auc, place, "o", color="tab:blue")
        axes.text(row.auc, place - 0.15, f"{row.auc:.4f}", ha="center", fontsize="small")
    if best_possible is not None:
        axes.axvline(best_possible, color="grey", linestyle="--", linewidth=1)
        axes.set_title(f"best possible {best_possible:.4f} (dashed)", fontsize="small")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlabel(f"AUC on {board.n_reporting_rows:,} valid rows, 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    # The object API alone: pyplot keeps global state and picks a backend at import.
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")
