"""Every preset's model and training, at small widths: one seed gives one set of weights."""

import dataclasses

import pytest
import torch

from mmctr_pipeline.comparison.entries import leaderboard_entries
from mmctr_pipeline.comparison.runner import Entry
from mmctr_pipeline.settings import Settings
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline.training.device import SMALL_BATCH
from mmctr_pipeline_tests.training.small_sample import small_sample

ENTRIES = leaderboard_entries([])
"""One preset of each kind: the others differ in what comes before training alone."""


def narrow(config: Settings) -> Settings:
    """Return the settings with widths of 8 at most and all else as it is."""
    narrowed: dict[str, object] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Settings):
            narrowed[field.name] = narrow(value)
        elif field.name.endswith("_dim") or field.name == "n_codes":
            narrowed[field.name] = min(value, 8)
        elif field.name.endswith("_dims"):
            narrowed[field.name] = tuple(min(width, 8) for width in value)
    return dataclasses.replace(config, **narrowed)


def short(config: TrainingConfig, seed: int) -> TrainingConfig:
    """Return the settings with two epochs at most, of steps on as many threads as ever."""
    return dataclasses.replace(
        config,
        seed=seed,
        max_epochs=min(config.max_epochs, 2),
        batch_size=min(config.batch_size, SMALL_BATCH + 64),
    )


def trained(entry: Entry, seed: int) -> TrainedCtr:
    world, vectors = small_sample(n_train=500, n_valid=200)
    return train_ctr(
        world,
        vectors,
        narrow(entry.model),
        short(entry.training, seed),
        torch.device("cpu"),
        lambda line: None,
        modalities={"text": vectors, "image": vectors},
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_seed_gives_the_same_weights_twice(entry: Entry) -> None:
    runs = []
    for state_before in (1, 2):
        # What came before a run must not matter to it.
        torch.manual_seed(state_before)
        runs.append(trained(entry, entry.training.seed))
    first, second = (run.module.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses, again = ([epoch.train_loss for epoch in run.history.epochs] for run in runs)
    assert losses == again


def test_another_seed_gives_other_weights() -> None:
    (entry,) = [entry for entry in ENTRIES if entry.name == "improved_mmctr"]
    first, second = (trained(entry, seed).module.state_dict() for seed in (1, 2))
    assert not torch.equal(first["tower.0.weight"], second["tower.0.weight"])
