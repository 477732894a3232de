"""The learning rate of every epoch against the formula of cosine annealing with warm restarts."""

import math

import pytest
import torch
from torch import nn

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers.build import build_optimizers
from mmctr_pipeline.training.schedules import Schedule


def rates_per_epoch(config: TrainingConfig, n_epochs: int) -> list[tuple[float, ...]]:
    module = nn.ParameterDict({name: torch.zeros(1) for name in ("main", "multimodal")})
    optimizers = build_optimizers(module, {n: [p] for n, p in module.items()}, config)
    schedule = Schedule(optimizers.members, config)
    rates = []
    for _ in range(n_epochs):
        rates.append(
            tuple(float(g["lr"]) for member in optimizers.members for g in member.param_groups)
        )
        optimizers.step()
        schedule.after_validation(0.5, epoch_ended=True)
    return rates


def test_cosine_restarts_after_5_and_15_epochs_in_both_groups() -> None:
    rates = rates_per_epoch(TrainingConfig(), 30)
    cycle = [(t, 5) for t in range(5)] + [(t, 10) for t in range(10)] + [(t, 20) for t in range(15)]
    for (since_restart, length), (main, multimodal) in zip(cycle, rates, strict=True):
        cosine = (1 + math.cos(math.pi * since_restart / length)) / 2
        assert main == pytest.approx(1e-6 + (2e-3 - 1e-6) * cosine, rel=1e-9)
        assert multimodal == pytest.approx(1e-6 + (5e-4 - 1e-6) * cosine, rel=1e-9)


def test_constant_stays() -> None:
    rates = rates_per_epoch(TrainingConfig(schedule="constant"), 8)
    assert rates == [(2e-3, 5e-4)] * 8
