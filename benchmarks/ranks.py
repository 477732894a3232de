"""Train on two ranks by Ray Train, against one process with one core.

    python -m benchmarks.ranks [--seeds N] [--rows N] [--epochs N] [--preset NAME]

Both sides train the model of a preset on a sample dataset, whose given vectors also serve as
vectors of titles and covers. Half of the rows without a click get in-batch negatives, so that all
random draws that a rank makes on its own rows are on, as far as the preset has them. On CPUs each
rank has one core and one thread, as the single process does.
`ours` and `peer` are train rows per second with two ranks and with one process, the median over
seeds. `efficiency` is their ratio by two. `auc_difference` is the mean over seeds of the AUC of two
ranks minus that of one process on 50,000 valid rows, with its 95 % interval if there are several
seeds; `auc_equal` says whether both ends lie within 0.003 of zero.

`dense_bytes` and `row_bytes` are a rank's gradients of one step. `link_seconds_per_step` is what
their exchange would take at 25 Gbit/s, by arithmetic: a ring sends each byte of dense gradients
`2 (R - 1) / R` times, and each rank gets the rows of the other R - 1. `step_seconds` is the
measured duration of a step, in which the exchange over loopback is included.
"""

import dataclasses
import json
import logging
import re
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import alternate, command_line, final_line, medians

N_RANKS = 2
N_VALID_ROWS = 50_000
LINK_BYTES_PER_SECOND = 25e9 / 8

SIDES = ("alone", "ranks")


class Traffic(logging.Handler):
    """Finds a rank's bytes per step in the log."""

    pattern = re.compile(r"gradients of one step: ([\d,]+) bytes of dense .*, ([\d,]+) of table")

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the numbers of the line that has them."""
        if match := self.pattern.search(record.getMessage()):
            numbers = (int(number.replace(",", "")) for number in match.groups())
            self.found = dict(zip(("dense_bytes", "row_bytes"), numbers, strict=True))


def train(chosen: Namespace) -> dict[str, float]:
    """Train one side with one seed; save its scores of the valid rows."""
    import torch

    from benchmarks.samples import read_sample
    from mmctr_pipeline.data.vectors import ItemVectors
    from mmctr_pipeline.pipeline import train
    from mmctr_pipeline.presets.preset import load_preset

    torch.set_num_threads(1)
    traffic = Traffic()
    logging.getLogger("mmctr_pipeline").addHandler(traffic)
    preset = load_preset(chosen.preset)
    training = dataclasses.replace(
        preset.training,
        seed=chosen.seed,
        max_epochs=chosen.epochs,
        compute="ray" if chosen.side == "ranks" else "local",
        workers=N_RANKS,
        calibration="none",
        in_batch_negatives=0.5,
    )
    dataset, vectors = read_sample(chosen.data)
    vectors = ItemVectors(vectors.fused, vectors.fused, vectors.fused)
    trained = train(dataset, vectors, preset.model, training, torch.device("cpu"))
    np.save(_scores(chosen.data, chosen.side, chosen.seed), trained.valid_scores)
    step_seconds = training.batch_size / trained.metrics["train_rows_per_second"]
    return {
        "rows_per_second": trained.metrics["train_rows_per_second"],
        "valid_auc": trained.metrics["valid_auc"],
        "step_seconds": step_seconds,
        **traffic.found,
    }


def _scores(folder: Path, side: str, seed: int) -> Path:
    return folder / f"{side}_{seed}.npy"


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = command_line(__doc__, SIDES, rounds=1)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--preset", default="similarity_attention")
    parser.add_argument("--data", type=Path)
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(train(chosen)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        from benchmarks.samples import write_scaled

        data = Path(scratch)
        label = write_scaled(data, chosen.rows, N_VALID_ROWS)
        results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for seed in range(1, chosen.seeds + 1):
            arguments = [
                f"--data={data}",
                f"--preset={chosen.preset}",
                f"--epochs={chosen.epochs}",
                f"--seed={seed}",
            ]
            for side, found in alternate("benchmarks.ranks", SIDES, 1, arguments).items():
                results[side] += found
        scores = {
            side: [np.load(_scores(data, side, seed)) for seed in range(1, chosen.seeds + 1)]
            for side in SIDES
        }
    _report(chosen, results, label, scores)


def _report(
    chosen: Namespace,
    results: dict[str, list[dict[str, Any]]],
    label: np.ndarray,
    scores: dict[str, list[np.ndarray]],
) -> None:
    from mmctr_pipeline.comparison.statistics import auc_difference

    alone, ranks = medians(results["alone"]), medians(results["ranks"])
    difference = auc_difference(label, scores["ranks"], scores["alone"])
    sent = 2 * (N_RANKS - 1) / N_RANKS * ranks["dense_bytes"] + (N_RANKS - 1) * ranks["row_bytes"]
    ratio = ranks["rows_per_second"] / alone["rows_per_second"]
    final_line(
        name="ranks",
        ours=ranks["rows_per_second"],
        peer=alone["rows_per_second"],
        ratio=ratio,
        unit="rows/s",
        efficiency=ratio / N_RANKS,
        preset=chosen.preset,
        seeds=chosen.seeds,
        epochs=chosen.epochs,
        train_rows=chosen.rows,
        valid_rows=len(label),
        auc={"alone": alone["valid_auc"], "ranks": ranks["valid_auc"]},
        auc_difference=[difference.difference, difference.low, difference.high],
        auc_equal=difference.is_equal,
        dense_bytes=ranks["dense_bytes"],
        row_bytes=ranks["row_bytes"],
        link_seconds_per_step=sent / LINK_BYTES_PER_SECOND,
        step_seconds=ranks["step_seconds"],
    )


if __name__ == "__main__":
    main()
