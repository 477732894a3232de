"""Training recipe A with full-size tables: ours against the plain form of the notebook.

    python -m benchmarks.train [--data FOLDER] [--rows N] [--device D]
    python -m benchmarks.train --full [--data FOLDER] [--epochs N]

A sample dataset with the tables of MicroLens_1M_x1 (70,802,562 parameters) and fewer rows is
generated, or the first rows of a given one are taken; item vectors are its `item_emb_d128`. Both
sides train in batches of 2,048. The plain form (`plain_recipe`) is timed for some seconds after its
first steps, ours for one whole epoch. Each side runs as it is, and with an allocator setting
(`ALLOCATOR_SETTING` of the harness) that spares the plain form most of its page faults, and with
the OpenMP setting of our own entries (`share_cores`): `ratio` has both on both sides, `ratio_as_is`
neither on the plain side.

Ceiling: the machine's rate of matrix products, in the number format in question and in the same
run, divided by the operations that a row needs.

Fairness: on the CPU the benchmark fails where the plain form with the setting reaches less than a
fifth of its own bound, as so slow a peer would prove nothing. The bound is the rate at which it
would train if a step took no longer than its products (with padding, at the float32 rate) and its
dense update of the tables, both measured in the same run. The products depend on the CPU's vector
width and the update on its memory, so that a share of the ceiling alone would differ between
machines. On a GPU the loader is the limit, so that the share is printed but not required.

`--full` runs ours alone, all rows from the parquet files: seconds of loading, of each epoch and of
its validation, and the peak memory.
"""

import json
import logging
import sys
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
    product_rate,
)
from mmctr_pipeline.environment import share_cores

logger = logging.getLogger(__name__)

N_ROWS, N_VALID_ROWS = 250_000, 10_000
WARM_UP_STEPS = 2
LEAST_SHARE = 0.2
"""Share of its own bound below which the plain form is no peer.

Without the allocator setting it reaches about a tenth, with it more than a quarter.
"""

MEAN_HISTORY = 8


def operations_per_row(vector_dim: int = 128, n_positions: int = MEAN_HISTORY) -> float:
    """Return the multiplications and additions that training on one row needs.

    Forward once and backward twice: the two bilinear forms, the tower, the attention over a history
    of mean length (no padding) or of `n_positions`, and the multimodal transform.
    """
    bilinear = 2 * 64 * 64 * 64
    tower = 448 * 512 + 512 * 256 + 256 * 128 + 128
    attention = n_positions * (64 * 32 + 32 + 64)
    return 3 * 2 * (bilinear + tower + attention + vector_dim * 64)


def plain(chosen: Namespace) -> dict[str, float]:
    """Train the plain form for `--seconds`."""
    if chosen.side.endswith("_set"):
        share_cores()  # before torch; as ours, so that the sides differ in nothing but themselves
    import torch

    from benchmarks.plain_recipe import (
        PlainRecipe,
        PlainRows,
        PlainTraining,
        loader,
        standardised_vectors,
    )
    from benchmarks.samples import read_sample
    from mmctr_pipeline.models.config import ImprovedMmctrConfig
    from mmctr_pipeline.training.batches import feature_spec
    from mmctr_pipeline.training.device import resolve_device

    device = resolve_device(chosen.device)
    dataset, vectors = read_sample(chosen.data, chosen.rows)
    spec = feature_spec(dataset, vectors, ImprovedMmctrConfig())
    torch.manual_seed(0)
    item_vectors = standardised_vectors(dataset.items, vectors)
    model = PlainRecipe(spec.n_users, spec.n_items, item_vectors)
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
        raise ValueError(f"{len(dataset.train):,} rows are no more than the steps that warm up")
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
    share_cores()  # before torch, as every entry of the pipeline
    from benchmarks.samples import read_sample
    from mmctr_pipeline.models.config import ImprovedMmctrConfig
    from mmctr_pipeline.training.config import TrainingConfig
    from mmctr_pipeline.training.ctr import train_ctr
    from mmctr_pipeline.training.device import resolve_device

    device = resolve_device(chosen.device)
    start = time.perf_counter()
    dataset, vectors = read_sample(chosen.data, n_rows)
    load_seconds = time.perf_counter() - start
    logger.info(f"{len(dataset.train):,} train rows loaded in {load_seconds:.1f} s")
    config = TrainingConfig(max_epochs=n_epochs, patience=n_epochs, precision=precision)
    trained = train_ctr(dataset, vectors, ImprovedMmctrConfig(), config, device)
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


def rates(chosen: Namespace) -> dict[str, float]:
    """Measure matrix products in float32 and in the format that `auto` stands for."""
    from mmctr_pipeline.training.device import resolve_device

    device = str(resolve_device(chosen.device))
    return {precision: product_rate(precision, device) for precision in ("float32", "auto")}


def dense_update(chosen: Namespace) -> dict[str, float]:
    """Measure the part of the plain form's step that touches every row of its tables.

    It clears the gradient, clips it, and updates by AdamW; memory bandwidth is the limit. Returns
    the best of three trials, after one that warms up.
    """
    share_cores()
    import torch

    from benchmarks.samples import read_sample
    from mmctr_pipeline.models.config import ImprovedMmctrConfig
    from mmctr_pipeline.training.batches import feature_spec
    from mmctr_pipeline.training.device import resolve_device

    device = resolve_device(chosen.device)
    spec = feature_spec(*read_sample(chosen.data, chosen.rows), ImprovedMmctrConfig())
    table = torch.nn.Parameter(torch.zeros(spec.n_users + spec.n_items, 64, device=device))
    optimizer = torch.optim.AdamW([table], lr=2e-3, weight_decay=1e-4)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        optimizer.zero_grad()
        table.grad = torch.zeros_like(table)
        torch.nn.utils.clip_grad_norm_([table], 1.0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds[1:])}


SIDES = {
    "rates": rates,
    "dense_update_set": dense_update,
    "plain": plain,
    "ours": ours("auto"),
    "plain_set": plain,
    "ours_set": ours("auto"),
    "ours_float32_set": ours("float32"),
}
"""Names that end in `_set` have the allocator setting."""


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
    parser.add_argument("--data", type=Path, help="a world with full-size tables")
    parser.add_argument("--rows", type=int, default=N_ROWS, help="train rows; not with --full")
    parser.add_argument("--seconds", type=float, default=8, help="for which plain is timed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--epochs", type=int, default=1, help="with --full")
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
    speed = {n: side["rows_per_second"] for n, side in sides.items() if "rows_per_second" in side}
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
        gpu_peak_mb={n: round(sides[n]["gpu_peak_mb"]) for n in speed if "gpu_peak_mb" in sides[n]},
        rows=sides["ours"]["rows"],
        parameters=sides["ours"]["parameters"],
        device=device_name(resolve_device(chosen.device)),
    )
    if resolve_device(chosen.device).type == "cpu":
        check_is_a_peer(speed["plain_set"], bound)


def plain_bound(product_rate: float, update_seconds: float) -> float:
    """Return the rows per second at which a step is its products and its dense update alone."""
    from benchmarks.plain_recipe import BATCH_SIZE, HISTORY_LENGTH

    operations = BATCH_SIZE * operations_per_row(n_positions=HISTORY_LENGTH)
    return BATCH_SIZE / (operations / product_rate + update_seconds)


def check_is_a_peer(rows_per_second: float, bound: float) -> None:
    """End the program with a message where the plain form is too far below its own bound."""
    share = rows_per_second / bound
    if share < LEAST_SHARE:
        sys.exit(
            f"the plain form with the allocator setting reaches {share:.1%} of what its products "
            f"and its dense update allow ({rows_per_second:,.0f} of {bound:,.0f} rows/s), less "
            f"than {LEAST_SHARE:.0%}: too slow to compare with; look for what holds it up, such "
            "as other work on the machine"
        )


if __name__ == "__main__":
    main()
