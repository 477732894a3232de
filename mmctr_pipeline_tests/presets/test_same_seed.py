"""Equal seeds give equal weights with every preset's model and training, at small widths."""

import dataclasses

import pytest
import torch

from mmctr_pipeline.comparison.entries import Entry, preset_entries
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.settings import Settings
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline.training.device import SMALL_BATCH
from mmctr_pipeline_tests.training.small_sample import small_sample

ENTRIES = preset_entries([], shared=load_preset("sample"))
"""The shipped presets that differ in model or training."""

_VARIANTS = ("sample", "target_cross_attention_jiyuqian", "transformer_dcn_momo")
"""Presets of a model that another preset has too."""

EACH_PRESET = [
    pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] if entry.name in _VARIANTS else [])
    for entry in ENTRIES
]
"""Parameters of a test of every preset."""


def narrow(config: Settings) -> Settings:
    """Return the settings with widths of at most 8."""
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
    """Return the settings with at most two epochs, and small batches.

    Batches above `SMALL_BATCH` rows stay above it, so that they still use all threads.
    """
    return dataclasses.replace(
        config,
        seed=seed,
        max_epochs=min(config.max_epochs, 2),
        batch_size=min(config.batch_size, SMALL_BATCH + 64),
    )


def trained(entry: Entry, seed: int) -> TrainedCtr:
    dataset, vectors = small_sample(n_train=500, n_valid=200)
    table = vectors.fused
    return train_ctr(
        dataset,
        ItemVectors(table, text=table, image=table),
        narrow(entry.preset.model),
        short(entry.preset.training, seed),
        torch.device("cpu"),
    )


@pytest.mark.parametrize("entry", EACH_PRESET)
def test_equal_seeds_give_equal_weights(entry: Entry) -> None:
    runs = []
    for global_seed in (1, 2):
        # The state of torch's global generator before training must not matter.
        torch.manual_seed(global_seed)
        runs.append(trained(entry, entry.preset.training.seed))
    first, second = (run.module.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    first_losses, second_losses = (
        [epoch.train_loss for epoch in run.history.epochs] for run in runs
    )
    assert first_losses == second_losses


def test_different_seeds_give_different_weights() -> None:
    (entry,) = [entry for entry in ENTRIES if entry.name == "improved_mmctr"]
    first, second = (trained(entry, seed).module.state_dict() for seed in (1, 2))
    assert not torch.equal(first["tower.0.weight"], second["tower.0.weight"])
