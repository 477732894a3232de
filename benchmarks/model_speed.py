"""Training speed of `din`, `qin` and `transformer_dcn`: ragged against plain padded forms.

The data are a generated sample dataset with tables of MicroLens_1M_x1's size (91,717 items) but
fewer rows, or the first rows of a given dataset. Item vectors are the dataset's `item_emb_d128`.
Each side runs in its own process, in turn, with the allocator setting of the harness and the OpenMP
setting of our own entry points. The plain form is timed for some seconds after its first step. Ours
is trained for two epochs; only the second is timed.

The ceiling is the machine's rate of matrix products, in the same dtype and measured in the same
run, divided by the operations that a row needs without padding. These do not include the matrix
applied to item vectors, which is needed once per distinct item of a batch. The plain form cannot
come near this ceiling, as it also computes on padding. So there is a second ceiling, which counts
all operations that the plain form performs; `peer_share_of_padded_ceiling` is its share of that.
"""

import dataclasses
import importlib.util
import json
import logging
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

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
from benchmarks.plain_models import PaddedRows, PaddedTraining, padded_batches, take_weights
from benchmarks.samples import read_sample, write_full_tables
from mmctr_pipeline.environment import share_cores
from mmctr_pipeline.models.batch import ItemFeatures
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import FeatureModelSettings, ModelConfig
from mmctr_pipeline.pipeline import train
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.training.batch_source import feature_spec, item_features
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.device import resolve_device

logger = logging.getLogger(__name__)

MAX_HISTORY = 64
N_VALID_ROWS = 500
WARM_UP_STEPS = 1
"""Untimed steps of the plain form; on two cores, one step takes as long as `--seconds` says."""

N_COUNTED_ROWS = 64
"""Rows on which the operations of the plain form are counted."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A model, the plain form it is compared with, and the size of the comparison.

    `plain_form(config, ours, items)` returns a module that takes the rows of `plain_models` and has
    the parameters of `ours` in the same order. `operations_per_row(ours, length_N)` returns the
    operations for training on an average row, given the lengths of the rows' histories.
    If `batch_size` is None, the preset's is used. `changes` replace settings of the preset's model
    on both sides.
    """

    name: str
    preset: str
    plain_form: Callable[[Any, Any, ItemFeatures], nn.Module]
    operations_per_row: Callable[[Any, np.ndarray], float]
    n_rows: int
    batch_size: int | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def n_weights(*modules: nn.Module) -> int:
    """Return the number of matrix entries, each a multiplication in a product with a vector."""
    return sum(
        parameter.numel()
        for module in modules
        for parameter in module.parameters()
        if parameter.ndim == 2
    )


def settings(
    comparison: Comparison, batch_size: int | None = None
) -> tuple[ModelConfig, TrainingConfig]:
    """Return the settings of both sides: the preset's with two epochs and the given batch size.

    Histories have at most 64 items, and `comparison.changes` are applied.
    """
    loaded = load_preset(comparison.preset)
    assert isinstance(loaded.model, FeatureModelSettings)
    features = dataclasses.replace(loaded.model.features, max_history=MAX_HISTORY)
    training = dataclasses.replace(
        loaded.training,
        batch_size=batch_size or loaded.training.batch_size,
        max_epochs=2,
        patience=2,
    )
    model = dataclasses.replace(loaded.model, features=features, **comparison.changes)
    return model, training


def rates(comparison: Comparison, chosen: Namespace) -> dict[str, float]:
    """Measure matrix products in float32 and `auto`, and count the operations per row."""
    device = str(resolve_device(chosen.device))
    dataset, vectors = read_sample(chosen.data, chosen.rows)
    config, _ = settings(comparison)
    with torch.device("meta"):
        model = build_model(config, feature_spec(dataset, vectors, config))
    length_N = np.minimum(dataset.histories.lengths[dataset.train.history], MAX_HISTORY)
    return {
        **{precision: product_rate(precision, device) for precision in ("float32", "auto")},
        "operations_per_row": comparison.operations_per_row(model, length_N),
        "mean_history": float(length_N.mean()),
    }


def plain(comparison: Comparison, chosen: Namespace) -> dict[str, float]:
    """Train the plain form for `--seconds`."""
    device = resolve_device(chosen.device)
    dataset, vectors = read_sample(chosen.data, chosen.rows)
    config, training_config = settings(comparison, chosen.batch_size)
    if len(dataset.train) < training_config.batch_size:
        raise ValueError(f"{len(dataset.train):,} rows are fewer than one batch")
    items = item_features(dataset.items, vectors, config)
    torch.manual_seed(training_config.seed)
    ours = build_model(config, feature_spec(dataset, vectors, config))
    ours.fit_statistics(items, dataset.train, dataset.histories)
    model = comparison.plain_form(config, ours, items)
    take_weights(model, ours)
    del ours

    rows = PaddedRows(dataset.train, dataset.histories, MAX_HISTORY)
    training = PaddedTraining(model, training_config, device)
    operations = training.operations_per_row(rows.__getitems__(list(range(N_COUNTED_ROWS))))
    batches = padded_batches(rows, training_config.batch_size, device)
    n_rows, start = 0, 0.0
    for step, size in enumerate(training.steps(batches), start=1):
        if step <= WARM_UP_STEPS:
            start = time.perf_counter()
            continue
        n_rows += size
        seconds = time.perf_counter() - start
        logger.info(f"step {step}: {n_rows / seconds:,.0f} rows/s")
        if seconds > chosen.seconds:
            break
    return {
        "rows_per_second": n_rows / seconds,
        "rows": n_rows,
        "operations_per_row": operations,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **peaks(device),
    }


def ours(precision: str) -> Callable[[Comparison, Namespace], dict[str, float]]:
    """Return a side that trains with the pipeline's engine."""

    def side(comparison: Comparison, chosen: Namespace) -> dict[str, float]:
        device = resolve_device(chosen.device)
        dataset, vectors = read_sample(chosen.data, chosen.rows)
        config, training = settings(comparison, chosen.batch_size)
        training = dataclasses.replace(training, precision=precision)
        trained = train(dataset, vectors, config, training, device)
        return {
            # The first epoch warms up, as does the plain form's first step.
            "rows_per_second": trained.history.epochs[-1].rows_per_second,
            "rows": len(dataset.train),
            "parameters": trained.n_parameters,
            **peaks(device),
        }

    return side


SIDES = {"rates": rates, "plain": plain, "ours": ours("auto"), "ours_float32": ours("float32")}


def run(comparison: Comparison, description: str | None) -> None:
    """Run the benchmark, or one side of it; `--help` shows `description`."""
    # A side has imported torch before it gets here, too late to set OpenMP. So the parent process
    # sets it, and the sides inherit the setting.
    share_cores()
    chosen = _parser(comparison, description).parse_args()
    if importlib.util.find_spec("fuxictr") is None:
        sys.exit("the peer is built from the fuxictr package: make install EXTRAS=dev,bench")
    if chosen.side:
        print(json.dumps(SIDES[chosen.side](comparison, chosen)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = chosen.data or Path(scratch)
        if chosen.data is None:
            write_full_tables(data, chosen.rows, N_VALID_ROWS)
        arguments = [f"--data={data}", f"--device={chosen.device}", f"--rows={chosen.rows}"]
        arguments += [f"--seconds={chosen.seconds}", f"--batch-size={chosen.batch_size}"]
        results = alternate(
            f"benchmarks.{comparison.name}",
            list(SIDES),
            chosen.rounds,
            arguments,
            dict.fromkeys(SIDES, ALLOCATOR_SETTING),
        )
    sides = {side: medians(rounds) for side, rounds in results.items()}
    final_line(name=comparison.name, **_compared(sides), **_circumstances(sides, chosen))


def _parser(comparison: Comparison, description: str | None) -> ArgumentParser:
    batch_size = comparison.batch_size or load_preset(comparison.preset).training.batch_size
    parser = command_line(description, list(SIDES), rounds=1)  # two rounds: 5 min on two cores
    parser.add_argument("--data", type=Path, help="a dataset with full-size tables")
    parser.add_argument("--rows", type=int, default=comparison.n_rows, help="train rows")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--seconds", type=float, default=15, help="how long to time the plain form")
    parser.add_argument("--device", default="auto")
    return parser


def _compared(sides: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the rates, their ratios, and their shares of the ceilings."""
    speed = {name: side["rows_per_second"] for name, side in sides.items() if name != "rates"}
    rate = sides["rates"]
    ceiling, ceiling_float32 = (
        rate[precision] / rate["operations_per_row"] for precision in ("auto", "float32")
    )
    padded_ceiling = rate["float32"] / sides["plain"]["operations_per_row"]
    return {
        "ours": speed["ours"],
        "peer": speed["plain"],
        "ratio": speed["ours"] / speed["plain"],
        "unit": "rows/s",
        "ours_float32": speed["ours_float32"],
        "ratio_float32": speed["ours_float32"] / speed["plain"],
        "ceiling": ceiling,
        "ceiling_float32": ceiling_float32,
        "share_of_ceiling": speed["ours"] / ceiling,
        "share_of_ceiling_float32": speed["ours_float32"] / ceiling_float32,
        "peer_share_of_ceiling": speed["plain"] / ceiling_float32,
        "peer_share_of_padded_ceiling": speed["plain"] / padded_ceiling,
    }


def _circumstances(sides: dict[str, dict[str, float]], chosen: Namespace) -> dict[str, Any]:
    found = {
        peak: {name: round(side[peak]) for name, side in sides.items() if peak in side}
        for peak in ("peak_mb", "gpu_peak_mb")
    }
    return {
        **found,
        "batch_size": chosen.batch_size,
        "max_history": MAX_HISTORY,
        "mean_history": sides["rates"]["mean_history"],
        "rows": int(sides["ours"]["rows"]),
        "parameters": int(sides["ours"]["parameters"]),
        "device": device_name(resolve_device(chosen.device)),
    }
