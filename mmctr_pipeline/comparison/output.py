"""Write a comparison as a Markdown table, as JSON and as a picture."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmctr_pipeline.comparison.table import Leaderboard
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.files.atomic import atomic_write, write_text
from mmctr_pipeline.files.markdown import escaped
from mmctr_pipeline.files.records import write_record
from mmctr_pipeline.metrics import auc
from mmctr_pipeline.sample.write import read_valid_truth


def write_report(
    board: Leaderboard, folder: Path, name: str, heading: str, best_possible: float | None
) -> list[str]:
    """Write `<name>.md`, `<name>.json` and `<name>.png`.

    Returns the lines of the Markdown file without the link to the picture.

    Parameters
    ----------
    board
        What to write.
    folder, name
        Folder and stem of the files.
    heading
        First line of the Markdown file.
    best_possible
        AUC that no model is expected to beat, or None if it is unknown.
    """
    lines = [escaped(heading), "", *board.markdown()]
    if best_possible is not None:
        lines += ["", f"Best possible AUC on the same rows: {best_possible:.4f}."]
    content = {"heading": heading, "best_possible_auc": best_possible, **board.to_mapping()}
    write_text(folder / f"{name}.md", "\n".join([*lines, "", f"![AUC]({name}.png)", ""]))
    write_record(folder / f"{name}.json", content)
    with atomic_write(folder / f"{name}.png") as temporary:
        _draw(board, best_possible, temporary)
    return lines


def _draw(board: Leaderboard, best_possible: float | None, path: Path) -> None:
    """Draw a point and an interval for each row that has not failed, the first row on top."""
    rows = [row for row in board.rows if row.measures]
    positions = range(len(rows))
    figure = Figure(figsize=(7, 1.2 + 0.34 * len(rows)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    auc, low, high = ([row.measures[name] for row in rows] for name in ("auc", "low", "high"))
    axes.hlines(positions, low, high, linewidth=2)
    axes.plot(auc, positions, "o")
    for position, value in enumerate(auc):
        axes.text(value, position - 0.15, f"{value:.4f}", ha="center", fontsize="small")
    limits = []
    if board.baselines:
        best = max(board.baselines, key=lambda row: row.measures["auc"])
        limits.append((best.measures["auc"], f"best baseline, {best.name},", ":", "dotted"))
    if best_possible is not None:
        limits.append((best_possible, "best possible", "--", "dashed"))
    for value, _, style, _ in limits:
        axes.axvline(value, color="grey", linestyle=style, linewidth=1)
    titles = [f"{name} {value:.4f} ({line})" for value, name, _, line in limits]
    axes.set_title("; ".join(titles), fontsize="small")
    axes.set_yticks(positions, [row.name for row in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlabel(f"AUC on {board.n_reporting_rows:,} valid rows, 95 % interval")
    axes.grid(axis="x", alpha=0.3)
    # This avoids pyplot, which keeps global state and chooses a backend when it is imported.
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")


def best_possible_auc(data: Path, dataset: CtrDataset, valid_rows: np.ndarray) -> float | None:
    """Return the AUC of a sample dataset's true probabilities on some of its valid rows.

    Returns None if the folder `data` holds no sample dataset.

    Parameters
    ----------
    data
        The data folder.
    dataset
        The dataset that was read from it.
    valid_rows
        True for the valid rows to use, `(N,) bool`.
    """
    truth = read_valid_truth(data, dataset.valid_days)
    return None if truth is None else auc(*(column[valid_rows] for column in truth))
