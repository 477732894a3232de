"""Rows of a table for the trivial baselines, which need no training."""

from mmctr_pipeline.baselines import NAMES, baseline_scores
from mmctr_pipeline.comparison.table_row import Outcome, ReportingRows, TableRow
from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.vectors import VectorTable


def baseline_rows(
    dataset: CtrDataset,
    split: Split,
    text: VectorTable | None,
    n_seeds: int,
    reporting: ReportingRows,
) -> tuple[list[TableRow], dict[str, str]]:
    """Return a measured row for each defined baseline, and why the others are undefined, by name.

    Parameters
    ----------
    dataset
        The train rows that the baselines are fitted on.
    split
        N rows to score.
    text
        Title vectors, or None.
    n_seeds
        Number of seeds of the models in the table; a baseline has the same scores for each.
    reporting
        Labels of the rows of `split`, and which of them have a cold target.
    """
    baselines = baseline_scores(dataset, split, text)
    rows = []
    for key, scores in baselines.scores.items():
        outcomes = [Outcome(seed, "", "", scores=scores) for seed in range(n_seeds)]
        rows.append(TableRow.measure(NAMES[key], "baseline", outcomes, reporting))
    return rows, {NAMES[key]: reason for key, reason in baselines.absent.items()}
