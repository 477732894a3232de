"""The learning rate of every epoch against the formula of cosine annealing with warm restarts."""

import math

import pytest
import torch
from torch import nn

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers import build_optimizer
from mmctr_pipeline.training.schedules import build_schedule


def rates_per_epoch(config: TrainingConfig, n_epochs: int) -> list[tuple[float, ...]]:
    groups = {name: [nn.Parameter(torch.zeros(1))] for name in ("main", "multimodal")}
    optimizer = build_optimizer(groups, config)
    schedule = build_schedule(optimizer, config)
    rates = []
    for _ in range(n_epochs):
        rates.append(tuple(float(group["lr"]) for group in optimizer.param_groups))
        optimizer.step()
        schedule.step()
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
