"""`mmctr leaderboard`."""

import math
import re

import click

from mmctr_pipeline.cli.compare import compare, data_folder
from mmctr_pipeline.comparison.entries import preset_entries
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.presets.preset import load_preset, preset_name
from mmctr_pipeline.sample.config import SampleConfig


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0 <= value < math.inf:
        raise click.BadParameter(f"{value} is not a number of minutes; use 0 or more")
    return value


def _file_stem(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"\w[\w. -]{0,99}", value, re.ASCII):
        raise click.BadParameter(
            f"{value[:100]!r} cannot name files; use at most 100 letters, digits, dots, spaces, "
            "hyphens and underscores, with a letter, digit or underscore first"
        )
    return value


@click.command()
@click.argument("presets", nargs=-1, metavar="[PRESET]...")
@click.option(
    "--vary",
    type=click.Choice(["model", "all"]),
    default="model",
    help='With "model", rows take model and training from their presets, but encoders and fusion '
    'from MMCTR_PRESET. With "all", rows take everything from their presets.',
)
@click.option(
    "--minutes",
    default=20.0,
    callback=_finite,
    help="Minutes that a row may train and validate; 0 means no limit.",
)
@click.option(
    "--seeds", type=click.IntRange(1, 10), default=1, help="Number of training seeds per row."
)
@click.option("--again", is_flag=True, help="Train finished rows again.")
@click.option(
    "--name", default="leaderboard", callback=_file_stem, help="Name of the table's files."
)
@click.option(
    "--scale",
    type=float,
    help="Size of the sample dataset, used if MMCTR_DATA_DIR is not set. "
    "[default: 7.5, 300,000 train rows]",
)
@click.option("--train-rows", "n_train_rows", type=int, help="Train rows of the sample dataset.")
@click.option(
    "--valid-rows",
    "n_valid_rows",
    type=int,
    help="Valid rows of the sample dataset; about half select the epoch, the others give the AUC. "
    "[default: 40,000]",
)
@click.option("--seed", type=int, help="Seed of the sample dataset. [default: 7]")
def leaderboard(
    presets: tuple[str, ...],
    vary: str,
    minutes: float,
    seeds: int,
    again: bool,
    name: str,
    **sample_size: float | None,
) -> int:
    """Compare presets, given by name or path, on the same data.

    The first is compared with each of the others. If no preset is given, all shipped presets are
    compared and ordered by AUC. Of presets with equal settings, only the first gives a row.
    """
    deployment = Deployment.from_environment()
    shared = load_preset(preset_name(deployment)) if vary == "model" else None
    entries = preset_entries(presets, shared)
    folder = data_folder(deployment, sample_size)
    given = {name: value for name, value in sample_size.items() if value is not None}
    default_size = {"scale": 7.5, "n_valid_rows": 40_000}
    data = folder or SampleConfig.scaled(**default_size | given)
    by_auc = not presets
    return compare(entries, data, deployment, name, seeds, minutes, again, by_auc=by_auc)
