"""Valid AUC: ours (ragged, catch-up AdamW, bfloat16) against the plain form, over seeds.

    python -m benchmarks.parity [--device D]
    python -m benchmarks.parity --full [--device D]

The plain form (`plain_recipe`), ours in the precision that `auto` selects, and ours in float32 are
trained for two epochs on a sample dataset with 50,000 valid rows. Data, batch size and initial
weights are the same; the order of rows and dropout are drawn with the same seed, but differ between
the sides. All keep the better epoch, as recipe A does. `difference` is the AUC of ours minus that
of the plain form; `low` and `high` are the ends of its 95 % interval over seeds and valid rows.
`comparison/statistics.py` gives the verdict.

The default of two seeds and 100,000 train rows only shows that the benchmark runs: the interval is
wide (Student's t is 12.7 for two seeds), and the AUC varies by about 0.01 between seeds. `--full`
uses 200,000 train rows and seeds 0 to 4.
"""

import json
import logging
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness import ALLOCATOR_SETTING, alternate, final_line
from mmctr_pipeline.environment import share_cores

logger = logging.getLogger(__name__)

N_EPOCHS, N_VALID_ROWS = 2, 50_000
N_ROWS, N_SEEDS = 100_000, 2
FULL_ROWS, FULL_SEEDS = 200_000, 5


def plain(chosen: Namespace) -> dict[str, float]:
    """Train the plain form and save the scores of its better epoch."""
    import torch

    from benchmarks.plain_recipe import PlainRecipe, PlainRows, PlainTraining, loader, plain_scores
    from benchmarks.samples import read_sample
    from mmctr_pipeline.metrics import auc
    from mmctr_pipeline.models.catalogue import build_model
    from mmctr_pipeline.models.config import ImprovedMmctrConfig
    from mmctr_pipeline.training.batch_source import feature_spec
    from mmctr_pipeline.training.device import resolve_device, seeded

    device = resolve_device(chosen.device)
    dataset, vectors = read_sample(chosen.data)
    spec = feature_spec(dataset, vectors, ImprovedMmctrConfig())
    model = PlainRecipe.for_dataset(dataset, vectors)
    # The plain form also starts from our initial weights, so that chance makes less difference.
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
        share_cores()  # before torch, as in every entry point of the pipeline
        from benchmarks.samples import read_sample
        from mmctr_pipeline.models.config import ImprovedMmctrConfig
        from mmctr_pipeline.pipeline import train
        from mmctr_pipeline.training.config import TrainingConfig
        from mmctr_pipeline.training.device import resolve_device

        device = resolve_device(chosen.device)
        dataset, vectors = read_sample(chosen.data)
        start = time.perf_counter()
        trained = train(
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
    save_scores(chosen, chosen.seed, scores)
    by_epoch = {f"valid_auc_{epoch}": area for epoch, area in enumerate(areas, start=1)}
    return {**by_epoch, "seconds": seconds}


SIDES = {"plain": plain, "ours": ours("auto"), "ours_float32": ours("float32")}


def parity_parser(description: str | None, sides: Sequence[str]) -> ArgumentParser:
    """Return the parser that the parity benchmarks share, and show log lines on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = ArgumentParser(description=description)
    parser.add_argument("--side", choices=sides)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rows", type=int, help="train rows; by default depends on --full")
    return parser


def save_scores(chosen: Namespace, seed: int, scores: np.ndarray) -> None:
    """Save the scores of the valid rows, `(N,)`, that this side reached with `seed`."""
    np.save(chosen.data / f"{chosen.side}_{seed}.npy", scores)


def saved_scores(folder: Path, sides: Sequence[str], n_seeds: int) -> dict[str, list[np.ndarray]]:
    """Return the saved scores of each side by seed."""
    return {
        side: [np.load(folder / f"{side}_{seed}.npy") for seed in range(n_seeds)] for side in sides
    }


def report(
    name: str, label: np.ndarray, scores: dict[str, list[np.ndarray]], n_rows: int, equal: bool
) -> None:
    """Print the final line: AUC of ours and of the peer, and their difference.

    Parameters
    ----------
    name
        Name of the benchmark.
    label
        Labels of the valid rows, `(N,)`.
    scores
        Scores of the valid rows by side and seed; the first side is the peer.
    n_rows
        Number of train rows.
    equal
        Whether the verdict may be `equal`: if both ends of the interval are within 0.003 of zero.
    """
    from mmctr_pipeline.comparison.statistics import paired_difference
    from mmctr_pipeline.metrics import auc

    areas = {side: [auc(label, of_seed) for of_seed in by_seed] for side, by_seed in scores.items()}
    mean = {side: float(np.mean(by_seed)) for side, by_seed in areas.items()}
    peer = next(iter(scores))
    line = {"ours": mean["ours"], "peer": mean[peer], "ratio": mean["ours"] / mean[peer]}
    line |= {"unit": "AUC", "ours_float32": mean["ours_float32"]}
    for suffix in ("", "_float32"):
        paired = paired_difference(label, scores[f"ours{suffix}"], scores[peer])
        verdict = "equal" if equal and paired.is_equal else paired.verdict
        line |= {f"difference{suffix}": paired.difference, f"low{suffix}": paired.low}
        line |= {f"high{suffix}": paired.high, f"verdict{suffix}": verdict}
    rounded = {side: [round(area, 4) for area in by_seed] for side, by_seed in areas.items()}
    final_line(name=name, **line, auc=rounded, train_rows=n_rows, valid_rows=len(label))


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = parity_parser(__doc__, list(SIDES))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(SIDES[chosen.side](chosen)))
        return
    n_rows, n_seeds = (FULL_ROWS, FULL_SEEDS) if chosen.full else (N_ROWS, N_SEEDS)
    n_rows = chosen.rows or n_rows
    from benchmarks.samples import write_scaled

    settings = dict.fromkeys(SIDES, ALLOCATOR_SETTING)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        label = write_scaled(data, n_rows, N_VALID_ROWS)
        for seed in range(n_seeds):
            arguments = [f"--data={data}", f"--device={chosen.device}", f"--seed={seed}"]
            alternate("benchmarks.parity", list(SIDES), 1, arguments, settings)
        scores = saved_scores(data, list(SIDES), n_seeds)
    report("parity", label, scores, n_rows, equal=False)


if __name__ == "__main__":
    main()
