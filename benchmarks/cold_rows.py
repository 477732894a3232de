"""Compare two presets on all valid rows, on those with a cold target, and on the others.

    python -m benchmarks.cold_rows DATA FIRST SECOND [--seed N] [--epochs N]

DATA is a data folder; FIRST and SECOND are presets or their files, for example
`benchmarks/movielens/ours.yaml` and `benchmarks/movielens/without_covers.yaml`. The valid users
form two halves, and each preset is trained twice: the rows of one half select the epoch, and those
of the other half are scored, then the other way round. Together the two runs score every valid row,
which matters where cold items are few. The scores are compared without calibration, which would not
change their order. A target is cold if no train row has it as its target or in its history. The
difference is the AUC of FIRST minus that of SECOND, with the 95 % interval of paired DeLong. There
is no peer, and no time is measured.
"""

import argparse
import dataclasses
import logging
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import final_line
from mmctr_pipeline import metrics, pipeline
from mmctr_pipeline.comparison.entries import Entry
from mmctr_pipeline.comparison.row_vectors import RowVectors
from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.user_split import selecting_rows
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.presets.preset import Preset, load_preset
from mmctr_pipeline.training.device import resolve_device
from mmctr_pipeline.training.metrics_report import times_in_train


def scores(preset: Preset, dataset: CtrDataset, vectors: ItemVectors) -> np.ndarray:
    """Return the scores of the valid rows, `(N,)`.

    The epoch of the model that scores a row is selected by the half that does not hold the row.
    """
    device = resolve_device("auto")
    training = dataclasses.replace(preset.training, calibration="none")
    selects, valid = selecting_rows(dataset), dataset.valid
    scored = np.zeros(len(valid), np.float32)
    for rows in (selects, ~selects):
        half = dataclasses.replace(dataset, valid=valid.take(rows))
        trained = pipeline.train(half, vectors, preset.model, training, device)
        scored[~rows] = pipeline.score(trained, half, valid.take(~rows), vectors, device)
    return scored


def compared(label: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Return the number of rows, both AUCs, and their difference with its 95 % interval."""
    difference = metrics.compare_auc(label, first, second)
    return {
        "rows": len(label),
        "first": metrics.auc(label, first),
        "second": metrics.auc(label, second),
        "difference": difference.difference,
        "low": difference.low,
        "high": difference.high,
    }


def is_cold(dataset: CtrDataset, split: Split) -> np.ndarray:
    """Return which rows have a cold target, `(N,) bool`."""
    return times_in_train(split.item_id, dataset.train, dataset.histories) == 0


def main() -> None:
    """Train both presets on both halves and compare their scores."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("presets", nargs=2)
    parser.add_argument("--seed", type=int, help="by default the preset's own")
    parser.add_argument("--epochs", type=int, help="at most; by default the preset's own")
    chosen = parser.parse_args()
    layout = find_data(chosen.data)
    dataset = pipeline.load_dataset(layout)
    changes = {"seed": chosen.seed, "max_epochs": chosen.epochs}
    changes = {name: value for name, value in changes.items() if value is not None}
    by_preset = []
    with tempfile.TemporaryDirectory() as storage:
        vectors_of = RowVectors(layout, dataset.items, Path(storage), resolve_device("auto"))
        for name in chosen.presets:
            preset = load_preset(name)
            training = dataclasses.replace(preset.training, **changes)
            preset = dataclasses.replace(preset, training=training)
            by_preset.append(scores(preset, dataset, vectors_of(Entry(name, preset))))
    label, cold = dataset.valid.label, is_cold(dataset, dataset.valid)
    assert label is not None
    parts = {"all": np.ones(len(label), bool), "cold": cold, "warm": ~cold}
    final_line(
        name="cold_rows",
        presets=chosen.presets,
        unit="AUC",
        **{
            part: compared(label[rows], *(score[rows] for score in by_preset))
            for part, rows in parts.items()
            if len(np.unique(label[rows])) == 2
        },
    )


if __name__ == "__main__":
    main()
