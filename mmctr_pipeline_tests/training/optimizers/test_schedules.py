"""The learning rates of every epoch follow the formulas."""

import copy
import math
from typing import Any

import pytest
from torch import nn

from mmctr_pipeline.models.layers.embedding import EmbeddingTable
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers.build import Optimizers


def build(larger_is_better: bool = True, **settings: Any) -> Optimizers:
    """Return optimisers of a table and a linear layer in one group, a linear layer in another."""
    table, main, multimodal = EmbeddingTable(3, 2), nn.Linear(1, 1), nn.Linear(1, 1)
    groups = {
        "main": [*table.parameters(), *main.parameters()],
        "multimodal": list(multimodal.parameters()),
    }
    module = nn.ModuleList([table, main, multimodal])
    return Optimizers(module, groups, TrainingConfig(**settings), larger_is_better)


def rates(optimizers: Optimizers) -> tuple[float, ...]:
    """Return the rates of both groups."""
    groups = [group for member in optimizers.members for group in member.param_groups]
    by_name = {
        name: {g["lr"] for g in groups if g["name"] == name} for name in ("main", "multimodal")
    }
    # A table has an optimiser of its own, with the rate of its group.
    (main,), (multimodal,) = by_name["main"], by_name["multimodal"]
    return main, multimodal


def rates_per_epoch(n_epochs: int, **settings: Any) -> list[tuple[float, ...]]:
    optimizers = build(**settings)
    found = []
    for _ in range(n_epochs):
        found.append(rates(optimizers))
        optimizers.step()
        optimizers.after_validation(0.5, epoch_ended=True)
    return found


def assert_cosine(found: tuple[float, ...], share: float) -> None:
    """Check the rates after `share` of a cosine cycle."""
    cosine = (1 + math.cos(math.pi * share)) / 2
    expected = [1e-6 + (rate - 1e-6) * cosine for rate in (2e-3, 5e-4)]
    assert found == pytest.approx(expected, rel=1e-9)


def test_cosine_restarts_after_5_and_15_epochs_in_both_groups() -> None:
    shares = [t / length for length in (5, 10, 20) for t in range(length)]
    for share, found in zip(shares[:30], rates_per_epoch(30), strict=True):
        assert_cosine(found, share)


def test_cosine_goes_down_once_over_all_epochs() -> None:
    for epoch, found in enumerate(rates_per_epoch(8, schedule="cosine", max_epochs=8)):
        assert_cosine(found, epoch / 8)


def test_a_constant_schedule_keeps_the_rates() -> None:
    assert rates_per_epoch(8, schedule="constant") == [(2e-3, 5e-4)] * 8


def test_cosine_waits_for_the_end_of_an_epoch() -> None:
    optimizers = build()
    optimizers.step()
    before = rates(optimizers)
    optimizers.after_validation(0.5, epoch_ended=False)
    assert rates(optimizers) == before
    optimizers.after_validation(0.5, epoch_ended=True)
    assert rates(optimizers) < before


@pytest.mark.parametrize("larger_is_better", [True, False])
@pytest.mark.parametrize("epoch_ended", [True, False])
def test_a_plateau_lowers_the_rates_down_to_the_minimum(
    larger_is_better: bool, epoch_ended: bool
) -> None:
    optimizers = build(
        larger_is_better,
        schedule="plateau",
        plateau_patience=2,
        plateau_factor=0.1,
        min_learning_rate=1e-4,
    )
    found = []
    for value in (0.5, 0.6, 0.6, 0.61, 0.6, 0.5, 0.6, 0.6, 0.6):
        optimizers.after_validation(value if larger_is_better else -value, epoch_ended)
        found.append(rates(optimizers))
    assert found[:5] == [(2e-3, 5e-4)] * 5
    assert found[5] == found[6] == pytest.approx((2e-4, 1e-4))
    assert found[7] == found[8] == pytest.approx((1e-4, 1e-4))


@pytest.mark.parametrize("name", ["cosine_restarts", "cosine", "plateau", "constant"])
def test_a_saved_schedule_continues_where_it_was(name: str) -> None:
    settings = {"schedule": name, "restart_epochs": 2, "max_epochs": 9}
    optimizers, other = build(**settings), build(**settings)
    values = [0.1, 0.3, 0.2, 0.4, 0.4, 0.1, 0.5]
    optimizers.step()
    for value in values[:3]:
        optimizers.after_validation(value, epoch_ended=True)
    other.load_state_dict(copy.deepcopy(optimizers.state_dict()))
    for value in values[3:]:
        assert rates(other) == rates(optimizers)
        optimizers.after_validation(value, epoch_ended=True)
        other.after_validation(value, epoch_ended=True)
    assert rates(other) == rates(optimizers)
