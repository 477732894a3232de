"""AUC after two epochs: ours (ragged, catch-up AdamW, bfloat16) against the plain form, over seeds.

    python -m benchmarks.parity [--device D]
    python -m benchmarks.parity --full [--device D]

A sample dataset of 50,000 valid rows is trained on for two epochs, by the plain form
(`plain_recipe`), by ours in the precision that `auto` stands for, and by ours in float32. A seed
decides on initialisation, order of rows and dropout, which are not shared between the sides; data
and batch size are. All keep the better epoch, as recipe A does. `difference` is ours less the plain
form with its 95 % interval over seeds and valid rows, and a verdict (`comparison/statistics.py`).

Two seeds and 100,000 train rows say little (t is 12.7, and AUC still rises steeply, by 0.01 more or
less from seed to seed): they show that the benchmark runs. `--full` takes 200,000 train rows and
seeds 0 to 4.
"""

import json
import logging
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness import ALLOCATOR_SETTING, alternate, final_line
from mmctr_pipeline.environment import share_cores

logger = logging.getLogger(__name__)

N_EPOCHS, N_VALID_ROWS = 2, 50_000
N_ROWS, N_SEEDS = 100_000, 2
FULL_ROWS, FULL_SEEDS = 200_000, 5


def plain(chosen: Namespace) -> dict[str, float]:
    """Train the plain form and keep the scores of its better epoch."""
    import torch

    from benchmarks.plain_recipe import (
        PlainRecipe,
        PlainRows,
        PlainTraining,
        loader,
        plain_scores,
        standardised_vectors,
    )
    from benchmarks.world import read_world
    from mmctr_pipeline.metrics import auc
    from mmctr_pipeline.models.catalogue import build_model
    from mmctr_pipeline.models.config import ImprovedMmctrConfig
    from mmctr_pipeline.training.ctr import feature_spec
    from mmctr_pipeline.training.device import resolve_device, seeded

    device = resolve_device(chosen.device)
    dataset, vectors = read_world(chosen.data)
    spec = feature_spec(dataset, vectors, ImprovedMmctrConfig())
    item_vectors = standardised_vectors(dataset.items, vectors)
    model = PlainRecipe(spec.n_users, spec.n_items, item_vectors)
    # The engine's own draw, so that less of the difference is left to chance.
    with seeded(chosen.seed, device):
        model.load_ours(build_model(ImprovedMmctrConfig(), spec).state_dict())
    torch.manual_seed(chosen.seed)
    training = PlainTraining(model, device)
    train_rows = PlainRows(dataset.train, dataset.histories)
    valid_rows = PlainRows(dataset.valid, dataset.histories)
    train, valid = loader(train_rows, True, device), loader(valid_rows, False, device)
    areas, scores = [], []
    start = time.perf_counter()
    for epoch in range(1, N_EPOCHS + 1):
        n_rows = sum(training.epoch(train))
        scores.append(plain_scores(model, valid, device))
        areas.append(auc(valid_rows.label, scores[-1]))
        logger.info(f"epoch {epoch}: {n_rows:,} rows, valid AUC {areas[-1]:.4f}")
    return _result(chosen, scores[int(np.argmax(areas))], areas, time.perf_counter() - start)


def ours(precision: str) -> Callable[[Namespace], dict[str, float]]:
    """Return a side that trains with the pipeline's engine."""

    def side(chosen: Namespace) -> dict[str, float]:
        share_cores()  # before torch, as every entry of the pipeline
        from benchmarks.world import read_world
        from mmctr_pipeline.models.config import ImprovedMmctrConfig
        from mmctr_pipeline.training.config import TrainingConfig
        from mmctr_pipeline.training.ctr import train_ctr
        from mmctr_pipeline.training.device import resolve_device

        device = resolve_device(chosen.device)
        dataset, vectors = read_world(chosen.data)
        start = time.perf_counter()
        trained = train_ctr(
            dataset,
            vectors,
            ImprovedMmctrConfig(),
            TrainingConfig(max_epochs=N_EPOCHS, precision=precision, seed=chosen.seed),
            device,
        )
        areas = [epoch.metrics["valid_auc"] for epoch in trained.history.epochs]
        return _result(chosen, trained.valid_scores, areas, time.perf_counter() - start)

    return side


def _result(
    chosen: Namespace, scores: np.ndarray, areas: list[float], seconds: float
) -> dict[str, float]:
    np.save(_scores_path(chosen.data, chosen.side, chosen.seed), scores)
    by_epoch = {f"valid_auc_{epoch}": area for epoch, area in enumerate(areas, start=1)}
    return {**by_epoch, "seconds": seconds}


SIDES = {"plain": plain, "ours": ours("auto"), "ours_float32": ours("float32")}


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rows", type=int, help="train rows, in place of the mode's own")
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(SIDES[chosen.side](chosen)))
        return
    n_rows, n_seeds = (FULL_ROWS, FULL_SEEDS) if chosen.full else (N_ROWS, N_SEEDS)
    n_rows = chosen.rows or n_rows
    from benchmarks.world import make_growing

    settings = dict.fromkeys(SIDES, ALLOCATOR_SETTING)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        label = make_growing(data, n_rows, N_VALID_ROWS)
        for seed in range(n_seeds):
            arguments = [f"--data={data}", f"--device={chosen.device}", f"--seed={seed}"]
            alternate("benchmarks.parity", list(SIDES), 1, arguments, settings)
        scores = {
            side: [np.load(_scores_path(data, side, seed)) for seed in range(n_seeds)]
            for side in SIDES
        }
    _report(label, scores, n_rows)


def _report(label: np.ndarray, scores: dict[str, list[np.ndarray]], n_rows: int) -> None:
    from mmctr_pipeline.comparison.statistics import paired_difference
    from mmctr_pipeline.metrics import auc

    areas = {side: [auc(label, each) for each in of_seeds] for side, of_seeds in scores.items()}
    mean = {side: float(np.mean(of_seeds)) for side, of_seeds in areas.items()}
    paired = paired_difference(label, scores["ours"], scores["plain"])
    in_float32 = paired_difference(label, scores["ours_float32"], scores["plain"])
    final_line(
        name="parity",
        ours=mean["ours"],
        peer=mean["plain"],
        ratio=mean["ours"] / mean["plain"],
        unit="AUC",
        difference=paired.difference,
        low=paired.low,
        high=paired.high,
        verdict=paired.verdict,
        ours_float32=mean["ours_float32"],
        difference_float32=in_float32.difference,
        low_float32=in_float32.low,
        high_float32=in_float32.high,
        verdict_float32=in_float32.verdict,
        auc={side: [round(area, 4) for area in of_seeds] for side, of_seeds in areas.items()},
        train_rows=n_rows,
        valid_rows=len(label),
    )


def _scores_path(folder: Path, side: str, seed: int) -> Path:
    return folder / f"{side}_{seed}.npy"


if __name__ == "__main__":
    main()
