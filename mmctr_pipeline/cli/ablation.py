"""`mmctr ablation`."""

import click

from mmctr_pipeline.cli.compare import compare
from mmctr_pipeline.comparison.entries import ABLATION_PAIRS, ablation_entries
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.sample.config import SampleConfig


@click.command()
@click.option("--scale", default=2.0, help="Size of the sample dataset: 1 has 40,000 train rows.")
@click.option("--seed", default=7, help="Seed of the sample dataset.")
def ablation(scale: float, seed: int) -> int:
    """Compare models with titles and covers, with only one of them, and with neither."""
    deployment = Deployment.from_environment()
    entries = ablation_entries(load_preset(deployment.preset or "sample"))
    config = SampleConfig.scaled(scale, seed=seed)
    return compare(entries, config, deployment, "ablation", pairs=ABLATION_PAIRS)
