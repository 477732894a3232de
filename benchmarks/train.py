"""Train recipe A with full-size tables: ours against the plain form of the notebook.

    python -m benchmarks.train [--data FOLDER] [--rows N] [--device D]
    python -m benchmarks.train --full [--data FOLDER] [--epochs N]

Generates a sample dataset with tables of MicroLens_1M_x1's size (70,802,562 parameters) but fewer
rows, or takes the first rows of a given dataset. Item vectors are the dataset's `item_emb_d128`.
Both sides train in batches of 2,048. The plain form (`plain_recipe`) is timed for some seconds
after its first steps, ours for a whole epoch. Each side runs with and without an allocator setting
(`ALLOCATOR_SETTING` of the harness), which avoids most page faults of the plain form. With it, the
plain form also has the OpenMP setting of our own entry points (`share_cores`), which ours always
has. For `ratio`, both sides have both settings. For `ratio_as_is`, the plain form has neither, and
ours has only the OpenMP setting.

Ceiling: the machine's rate of matrix products, in the same dtype and the same run, divided by the
operations that a row needs.

Fairness (`train_bounds`): on the CPU the benchmark fails if the plain form with both settings
reaches less than a fifth of its own bound, because a comparison with such a slow peer would prove
nothing. The bound is the rate at which it would train if a step took only its products (with
padding, at the float32 rate) and its dense update of the tables, both measured in the same run. The
products depend on the CPU's vector width and the update on its memory, so a share of the ceiling
alone would differ between machines. On a GPU the loader is the limit, so the share is printed but
not required.

`--full` runs ours alone on all rows from the parquet files. It reports the seconds of loading, the
mean seconds of an epoch and of its validation, and the peak memory.
"""

import json
import logging
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import (
    ALLOCATOR_SETTING,
    alternate,
    command_line,
    device_name,
    final_line,
    medians,
    peaks,
)
from benchmarks.train_bounds import (
    check_is_a_peer,
    dense_update,
    operations_per_row,
    plain_bound,
    rates,
)
from mmctr_pipeline.environment import share_cores

logger = logging.getLogger(__name__)

N_ROWS, N_VALID_ROWS = 250_000, 10_000
WARM_UP_STEPS = 2


def plain(chosen: Namespace) -> dict[str, float]:
    """Train the plain form for `--seconds`."""
    if chosen.side.endswith("_set"):
        share_cores()  # before torch, like ours, so that the settings of both sides are equal
    import torch

    from benchmarks.plain_recipe import PlainRecipe, PlainRows, PlainTraining, loader
    from benchmarks.samples import read_sample
    from mmctr_pipeline.training.device import resolve_device

    device = resolve_device(chosen.device)
    dataset, vectors = read_sample(chosen.data, chosen.rows)
    torch.manual_seed(0)
    model = PlainRecipe.for_dataset(dataset, vectors)
    batches = loader(PlainRows(dataset.train, dataset.histories), True, device)
    n_rows, start = 0, 0.0
    for step, size in enumerate(PlainTraining(model, device).epoch(batches), start=1):
        if step <= WARM_UP_STEPS:
            start = time.perf_counter()
            continue
        n_rows += size
        seconds = time.perf_counter() - start
        if seconds > chosen.seconds:
            break
    if not n_rows:
        raise ValueError(f"{len(dataset.train):,} rows are all used up by the warm-up")
    return {"rows_per_second": n_rows / seconds, "rows": n_rows, **peaks(device)}


def ours(precision: str) -> Callable[[Namespace], dict[str, float]]:
    """Return a side that trains one epoch with the pipeline's engine."""

    def side(chosen: Namespace) -> dict[str, float]:
        return _train_ours(chosen, precision, n_epochs=1, n_rows=chosen.rows)

    return side


def full(chosen: Namespace) -> dict[str, float]:
    """Train ours on all rows."""
    return _train_ours(chosen, "auto", n_epochs=chosen.epochs, n_rows=None)


def _train_ours(
    chosen: Namespace, precision: str, n_epochs: int, n_rows: int | None
) -> dict[str, float]:
    share_cores()  # before torch, like every entry point of the pipeline
    from benchmarks.samples import read_sample
    from mmctr_pipeline.models.config import ImprovedMmctrConfig
    from mmctr_pipeline.pipeline import train
    from mmctr_pipeline.training.config import TrainingConfig
    from mmctr_pipeline.training.device import resolve_device

    device = resolve_device(chosen.device)
    start = time.perf_counter()
    dataset, vectors = read_sample(chosen.data, n_rows)
    load_seconds = time.perf_counter() - start
    logger.info(f"{len(dataset.train):,} train rows loaded in {load_seconds:.1f} s")
    config = TrainingConfig(max_epochs=n_epochs, patience=n_epochs, precision=precision)
    trained = train(dataset, vectors, ImprovedMmctrConfig(), config, device)
    epochs = trained.history.epochs
    return {
        "rows_per_second": trained.metrics["train_rows_per_second"],
        "rows": len(dataset.train),
        "load_seconds": load_seconds,
        "epoch_seconds": sum(epoch.seconds for epoch in epochs) / len(epochs),
        "validation_seconds": sum(epoch.validation_seconds for epoch in epochs) / len(epochs),
        "seconds": time.perf_counter() - start,
        "valid_auc": trained.metrics["valid_auc"],
        "parameters": trained.n_parameters,
        **peaks(device),
    }


SIDES = {
    "rates": rates,
    "dense_update_set": dense_update,
    "plain": plain,
    "ours": ours("auto"),
    "plain_set": plain,
    "ours_set": ours("auto"),
    "ours_float32_set": ours("float32"),
}
"""Sides whose names end in `_set` run with the allocator setting."""


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = _parser()
    chosen = parser.parse_args()
    if chosen.side:
        side = full if chosen.side == "full" else SIDES[chosen.side]
        print(json.dumps(side(chosen)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = chosen.data or Path(scratch)
        if chosen.data is None:
            from benchmarks.samples import write_full_size, write_full_tables

            if chosen.full:
                write_full_size(data)
            else:
                write_full_tables(data, chosen.rows, N_VALID_ROWS)
        arguments = [f"--data={data}", f"--device={chosen.device}", f"--rows={chosen.rows}"]
        arguments += [f"--seconds={chosen.seconds}", f"--epochs={chosen.epochs}"]
        if chosen.full:
            _run_full(arguments)
        else:
            _compare(chosen, arguments)


def _parser() -> ArgumentParser:
    parser = command_line(__doc__, [*SIDES, "full"], rounds=2)
    parser.add_argument("--data", type=Path, help="a dataset with full-size tables")
    parser.add_argument("--rows", type=int, default=N_ROWS, help="train rows; not with --full")
    parser.add_argument("--seconds", type=float, default=8, help="how long to time the plain form")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--epochs", type=int, default=1, help="only with --full")
    return parser


def _run_full(arguments: list[str]) -> None:
    settings: dict[str, dict[str, str]] = {"full": {}}
    side = alternate("benchmarks.train", ["full"], 1, arguments, settings, show_progress=True)
    result = side["full"][0]
    ours_rate = result.pop("rows_per_second")
    final_line(
        name="train", ours=ours_rate, peer=None, ratio=None, unit="rows/s", full=True, **result
    )


def _compare(chosen: Namespace, arguments: list[str]) -> None:
    from mmctr_pipeline.training.device import resolve_device

    settings = {side: ALLOCATOR_SETTING for side in SIDES if side.endswith("_set")}
    results = alternate("benchmarks.train", list(SIDES), chosen.rounds, arguments, settings)
    sides = {side: medians(rounds) for side, rounds in results.items()}
    speed = {
        name: side["rows_per_second"] for name, side in sides.items() if "rows_per_second" in side
    }
    ceiling = {name: rate / operations_per_row() for name, rate in sides["rates"].items()}
    bound = plain_bound(sides["rates"]["float32"], sides["dense_update_set"]["seconds"])
    final_line(
        name="train",
        ours=speed["ours_set"],
        peer=speed["plain_set"],
        ratio=speed["ours_set"] / speed["plain_set"],
        unit="rows/s",
        ours_as_is=speed["ours"],
        peer_as_is=speed["plain"],
        ratio_as_is=speed["ours"] / speed["plain"],
        ours_float32=speed["ours_float32_set"],
        ratio_float32=speed["ours_float32_set"] / speed["plain_set"],
        ceiling=ceiling["auto"],
        ceiling_float32=ceiling["float32"],
        share_of_ceiling=speed["ours_set"] / ceiling["auto"],
        share_of_ceiling_float32=speed["ours_float32_set"] / ceiling["float32"],
        peer_share_of_ceiling=speed["plain_set"] / ceiling["float32"],
        peer_bound=bound,
        peer_share_of_bound=speed["plain_set"] / bound,
        peak_mb={name: round(sides[name]["peak_mb"]) for name in speed},
        gpu_peak_mb={
            name: round(sides[name]["gpu_peak_mb"])
            for name in speed
            if "gpu_peak_mb" in sides[name]
        },
        rows=sides["ours"]["rows"],
        parameters=sides["ours"]["parameters"],
        device=device_name(resolve_device(chosen.device)),
    )
    if resolve_device(chosen.device).type == "cpu":
        check_is_a_peer(speed["plain_set"], bound)


if __name__ == "__main__":
    main()
