"""`mmctr leaderboard`, `mmctr ablation` and `mmctr fusions`: run the rows, then print a table."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import click

from mmctr_pipeline.comparison.entries import (
    ABLATION_PAIRS,
    Entry,
    ablation_entries,
    fusion_entries,
    preset_entries,
)
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.presets.preset import load_preset, preset_name
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.settings import SettingsError

_N_TEST_ROWS = 1_000


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0 <= value < math.inf:
        raise click.BadParameter(f"{value} is not a number of minutes, 0 or more")
    return value


@click.command()
@click.argument("presets", nargs=-1, metavar="[PRESET]...")
@click.option(
    "--vary",
    type=click.Choice(["model", "all"]),
    default="model",
    help="What rows take from their preset: model and training, with encoders and fusion of "
    "MMCTR_PRESET for all; or encoders and fusion too.",
)
@click.option(
    "--minutes",
    default=20.0,
    callback=_finite,
    help="Limit for training and validation of a row; 0 is none.",
)
@click.option("--seeds", type=click.IntRange(1, 10), default=1)
@click.option("--again", is_flag=True, help="Train finished rows again.")
@click.option("--name", default="leaderboard", help="Name of the table's files.")
@click.option(
    "--scale",
    type=float,
    help="Size of the sample dataset, used if MMCTR_DATA_DIR is not set. "
    "[default: 7.5, 300,000 train rows]",
)
@click.option("--train-rows", "n_train_rows", type=int, help="Of the sample dataset.")
@click.option(
    "--valid-rows",
    "n_valid_rows",
    type=int,
    help="Of the sample dataset; about half of them report. [default: 40,000]",
)
@click.option("--seed", type=int, help="Of the sample dataset. [default: 7]")
def leaderboard(
    presets: tuple[str, ...],
    vary: str,
    minutes: float,
    seeds: int,
    again: bool,
    name: str,
    **sample_size: float | None,
) -> int:
    """Compare presets, named by name or path, on the same data.

    The first is compared with each of the others. Without names, these are all shipped presets
    that differ, ordered by AUC.
    """
    deployment = Deployment.from_environment()
    shared = load_preset(preset_name(deployment)) if vary == "model" else None
    entries = preset_entries(presets, shared)
    given = {name: value for name, value in sample_size.items() if value is not None}
    if deployment.data_dir is not None and given:
        raise SettingsError(
            "--scale, --train-rows, --valid-rows and --seed describe the sample dataset, but "
            f"MMCTR_DATA_DIR is {str(deployment.data_dir)!r}; leave them out, or unset it"
        )
    default_size = {"scale": 7.5, "n_valid_rows": 40_000}
    data = deployment.data_dir or SampleConfig.scaled(**default_size | given)
    by_auc = not presets
    return _compare(entries, data, deployment, name, seeds, minutes, again, by_auc=by_auc)


@click.command()
@click.option("--scale", default=2.0, help="Size of the sample dataset.")
@click.option("--seed", default=7, help="Seed of the sample dataset.")
def ablation(scale: float, seed: int) -> int:
    """Compare a model with titles and covers, with either, and with neither."""
    deployment = Deployment.from_environment()
    entries = ablation_entries(load_preset(deployment.preset or "sample"))
    config = SampleConfig.scaled(scale, seed=seed)
    return _compare(entries, config, deployment, "ablation", pairs=ABLATION_PAIRS)


@click.command()
@click.option("--train-rows", default=20_000)
@click.option("--valid-rows", default=50_000, help="About half of them report.")
@click.option("--seeds", type=click.IntRange(2, 10), default=5)
@click.option("--seed", default=11, help="Seed of the sample dataset.")
def fusions(train_rows: int, valid_rows: int, seeds: int, seed: int) -> int:
    """Compare a model with the vectors of each fusion, paired by seed of training."""
    deployment = Deployment.from_environment()
    config = SampleConfig(
        seed=seed,
        n_train_rows=train_rows,
        n_valid_rows=valid_rows,
        n_test_rows=_N_TEST_ROWS,
        # As many rows per user as in the default sample dataset.
        n_users=(train_rows + valid_rows + _N_TEST_ROWS) * 12 // 100,
    )
    entries = fusion_entries(load_preset(deployment.preset or "sample"))
    return _compare(entries, config, deployment, "fusions", seeds=seeds)


def _compare(
    entries: Sequence[Entry],
    data: Path | SampleConfig,
    deployment: Deployment,
    name: str,
    seeds: int = 1,
    minutes: float = 0.0,
    again: bool = False,
    *,
    by_auc: bool = False,
    pairs: Sequence[tuple[str, str]] = (),
) -> int:
    """Run a comparison and print its table and one line of JSON; return the exit status.

    Parameters
    ----------
    entries
        The rows.
    data
        The data folder, or the sample dataset to generate unless storage has it.
    deployment
        Where to store and compute.
    name
        Stem of the names of the table's files.
    seeds, by_auc, pairs
        As in `Runner.run`.
    minutes, again
        As in `Runner`.
    """
    from mmctr_pipeline import pipeline
    from mmctr_pipeline.comparison.report import best_possible_auc, write_report
    from mmctr_pipeline.comparison.row_vectors import RowVectors
    from mmctr_pipeline.comparison.runner import Runner
    from mmctr_pipeline.comparison.user_split import selects_epoch
    from mmctr_pipeline.data.discovery import find_data
    from mmctr_pipeline.sample.write import ensure_sample
    from mmctr_pipeline.training.device import resolve_device

    device, storage = resolve_device(deployment.device), deployment.storage_dir
    folder = data if isinstance(data, Path) else ensure_sample(data, storage / "sample")
    layout = find_data(folder)
    dataset = pipeline.load_dataset(layout)
    vectors = RowVectors(layout, dataset.items, storage, device)
    runner = Runner(dataset, vectors, storage, device, minutes, again)
    board = runner.run(entries, seeds, by_auc, pairs)
    limit = f" or {minutes:g} minutes of training, whichever is less" if minutes else ""
    heading = (
        f"{layout.root.name}: {len(dataset.train):,} train rows, AUC on "
        f"{board.n_reporting_rows:,} valid rows of users that selected no epoch; each row's own "
        f"epochs{limit}, on {device}"
    )
    best = best_possible_auc(layout.root, ~selects_epoch(dataset.valid.user_id))
    lines = write_report(board, runner.folder, name, heading, best)
    print("\n".join(["", *lines, "", f"written to {runner.folder / name}.md"]))
    line = {"name": name, "data": str(layout.root), "best_possible_auc": best}
    print(json.dumps(line | board.to_mapping()))
    return 1 if board.failures else 0
