"""`mmctr fusions`."""

import click

from mmctr_pipeline.cli.compare import compare, data_folder
from mmctr_pipeline.comparison.entries import FUSIONS, fusion_entries
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.presets.preset import load_preset, preset_name
from mmctr_pipeline.sample.config import SampleConfig

_N_TEST_ROWS = 1_000


@click.command()
@click.argument("rows", nargs=-1, type=click.Choice(list(FUSIONS)), metavar="[ROW]...")
@click.option("--train-rows", type=int, help="Train rows of the sample dataset. [default: 20,000]")
@click.option(
    "--valid-rows",
    type=int,
    help="Valid rows of the sample dataset; about half select the epoch, the others give the AUC. "
    "[default: 50,000]",
)
@click.option(
    "--seeds", type=click.IntRange(2, 10), default=5, help="Number of training seeds per row."
)
@click.option("--seed", type=int, help="Seed of the sample dataset. [default: 11]")
def fusions(rows: tuple[str, ...], seeds: int, **sample_size: int | None) -> int:
    """Train a model on the vectors of each fusion and compare the AUCs, paired by training seed.

    Name the rows to compare; without names, all are compared. The data are those of MMCTR_DATA_DIR,
    or a sample dataset.
    """
    deployment = Deployment.from_environment()
    folder = data_folder(deployment, sample_size)
    given = {name: value for name, value in sample_size.items() if value is not None}
    entries = fusion_entries(load_preset(preset_name(deployment)), rows)
    return compare(entries, folder or _sample(**given), deployment, "fusions", seeds=seeds)


def _sample(train_rows: int = 20_000, valid_rows: int = 50_000, seed: int = 11) -> SampleConfig:
    return SampleConfig(
        seed=seed,
        n_train_rows=train_rows,
        n_valid_rows=valid_rows,
        n_test_rows=_N_TEST_ROWS,
        # About as many rows per user as in the default sample dataset.
        n_users=(train_rows + valid_rows + _N_TEST_ROWS) * 12 // 100,
    )
