"""`mmctr fusions`."""

import click

from mmctr_pipeline.cli.compare import compare
from mmctr_pipeline.comparison.entries import fusion_entries
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.sample.config import SampleConfig

_N_TEST_ROWS = 1_000


@click.command()
@click.option("--train-rows", default=20_000, help="Train rows of the sample dataset.")
@click.option("--valid-rows", default=50_000, help="Valid rows; about half of them report.")
@click.option(
    "--seeds", type=click.IntRange(2, 10), default=5, help="Times each row is trained, by seed."
)
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
    return compare(entries, config, deployment, "fusions", seeds=seeds)
