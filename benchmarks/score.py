"""Score as many rows as there are in the challenge's test split: ours against the plain form.

    python -m benchmarks.score [--rows N] [--device D]

Generates a sample dataset with the tables of MicroLens_1M_x1, and scores its valid rows: 379,142
rows with labels, of users that are not in train. A third of the rows have a cold target. Both sides
hold the rows in memory and have the same weights, which ours learned in one short epoch. The plain
form (`plain_recipe`) pads histories to 100 and scores through its `DataLoader`.

For `ratio_set`, both sides run with the allocator setting (`ALLOCATOR_SETTING` of the harness) and
the OpenMP setting of our own entry points (`share_cores`). For `ratio`, the plain form runs with
neither, and ours only with the OpenMP setting. `auc_difference` is taken over all rows.
`largest_difference` is the largest difference between the two sides' probabilities of a row.
"""

import json
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np

from benchmarks.harness import (
    ALLOCATOR_SETTING,
    alternate,
    command_line,
    final_line,
    medians,
    peak_memory_mb,
)
from mmctr_pipeline.environment import share_cores

N_ROWS, N_TRAIN_ROWS = 379_142, 100_000
WEIGHTS, LABELS = "weights.pt", "labels.npy"


def prepare(chosen: Namespace) -> dict[str, float]:
    """Train the model; save its weights and the labels of the rows to score."""
    import torch

    from benchmarks.samples import read_sample
    from mmctr_pipeline.models.config import ImprovedMmctrConfig
    from mmctr_pipeline.pipeline import train
    from mmctr_pipeline.training.config import TrainingConfig
    from mmctr_pipeline.training.device import resolve_device

    device = resolve_device(chosen.device)
    dataset, vectors = read_sample(chosen.data)
    assert dataset.valid.label is not None
    np.save(chosen.data / LABELS, dataset.valid.label)
    config = TrainingConfig(max_epochs=1)
    trained = train(dataset, vectors, ImprovedMmctrConfig(), config, device)
    torch.save(trained.module.state_dict(), chosen.data / WEIGHTS)
    return {"valid_auc": trained.metrics["valid_auc"]}


def ours(chosen: Namespace) -> dict[str, float]:
    """Score with the pipeline."""
    share_cores()  # before torch, like every entry point of the pipeline
    import torch

    from benchmarks.samples import read_sample
    from mmctr_pipeline.models.catalogue import build_model
    from mmctr_pipeline.models.config import ImprovedMmctrConfig
    from mmctr_pipeline.training.batch_source import BatchSource, feature_spec, item_features
    from mmctr_pipeline.training.config import TrainingConfig
    from mmctr_pipeline.training.device import resolve_device
    from mmctr_pipeline.training.score import score

    device = resolve_device(chosen.device)
    dataset, vectors = read_sample(chosen.data)
    config = ImprovedMmctrConfig()
    model = build_model(config, feature_spec(dataset, vectors, config))
    model.load_state_dict(torch.load(chosen.data / WEIGHTS, weights_only=True))
    model.to(device)
    items = item_features(dataset.items, vectors, config).to(device)
    source = BatchSource(dataset.valid, dataset.histories, items, device)
    start = time.perf_counter()
    probabilities_N = score(model, source, TrainingConfig().precision)
    return _result(chosen, probabilities_N, time.perf_counter() - start)


def plain(chosen: Namespace) -> dict[str, float]:
    """Score with the plain form."""
    if chosen.side.endswith("_set"):
        share_cores()  # before torch, like ours, so that the settings of both sides are equal
    import torch

    from benchmarks.plain_recipe import PlainRecipe, PlainRows, loader, plain_scores
    from benchmarks.samples import read_sample
    from mmctr_pipeline.training.device import resolve_device

    device = resolve_device(chosen.device)
    dataset, vectors = read_sample(chosen.data)
    model = PlainRecipe.for_dataset(dataset, vectors)
    model.load_ours(torch.load(chosen.data / WEIGHTS, weights_only=True))
    model.to(device)
    batches = loader(PlainRows(dataset.valid, dataset.histories), False, device)
    start = time.perf_counter()
    probabilities_N = plain_scores(model, batches, device)
    return _result(chosen, probabilities_N, time.perf_counter() - start)


def _result(chosen: Namespace, probabilities_N: np.ndarray, seconds: float) -> dict[str, float]:
    np.save(chosen.data / f"{chosen.side}.npy", probabilities_N)
    return {"rows_per_second": len(probabilities_N) / seconds, "peak_mb": peak_memory_mb()}


SIDES = {"plain": plain, "ours": ours, "plain_set": plain, "ours_set": ours}
"""Sides whose names end in `_set` run with the allocator setting."""


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = command_line(__doc__, [*SIDES, "prepare"], rounds=1)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=N_ROWS)
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    if chosen.side:
        side = prepare if chosen.side == "prepare" else SIDES[chosen.side]
        print(json.dumps(side(chosen)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        from benchmarks.samples import write_full_tables

        data = Path(scratch)
        write_full_tables(data, N_TRAIN_ROWS, chosen.rows)
        arguments = [f"--data={data}", f"--device={chosen.device}"]
        alternate("benchmarks.score", ["prepare"], 1, arguments)
        settings = {side: ALLOCATOR_SETTING for side in SIDES if side.endswith("_set")}
        results = alternate("benchmarks.score", list(SIDES), chosen.rounds, arguments, settings)
        label = np.load(data / LABELS)
        scores = {side: np.load(data / f"{side}.npy") for side in SIDES}
    _report({side: medians(rounds) for side, rounds in results.items()}, label, scores)


def _report(
    sides: dict[str, dict[str, float]], label: np.ndarray, scores: dict[str, np.ndarray]
) -> None:
    from mmctr_pipeline.metrics import auc

    speed = {name: side["rows_per_second"] for name, side in sides.items()}
    areas = {name: auc(label, scores[name]) for name in ("ours", "plain")}
    final_line(
        name="score",
        ours=speed["ours"],
        peer=speed["plain"],
        ratio=speed["ours"] / speed["plain"],
        unit="rows/s",
        ratio_set=speed["ours_set"] / speed["plain_set"],
        rows=len(label),
        seconds={name: round(len(label) / rate, 2) for name, rate in speed.items()},
        peak_mb={name: round(side["peak_mb"]) for name, side in sides.items()},
        ours_auc=areas["ours"],
        peer_auc=areas["plain"],
        auc_difference=areas["ours"] - areas["plain"],
        largest_difference=float(np.abs(scores["ours"] - scores["plain"]).max()),
    )


if __name__ == "__main__":
    main()
