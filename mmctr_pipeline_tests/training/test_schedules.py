"""The learning rate of every epoch against the formulas, and a rate that waits for a plateau."""

import copy
import math
from collections.abc import Callable

import pytest
from torch import nn

from mmctr_pipeline.models.layers.embedding import EmbeddingTable
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers.build import Optimizers, build_optimizers
from mmctr_pipeline.training.schedules import Schedule


class Groups(nn.Module):
    """A table and a linear layer in one group, a linear layer in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.table = EmbeddingTable(3, 2)
        self.main, self.multimodal = nn.Linear(1, 1), nn.Linear(1, 1)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        multimodal = list(self.multimodal.parameters())
        return {"main": [self.table.weight, *self.main.parameters()], "multimodal": multimodal}


def build(
    config: TrainingConfig, larger_is_better: bool = True
) -> tuple[Optimizers, Schedule, Callable[[], tuple[float, ...]]]:
    """Return optimisers, their schedule, and what tells the rates of both groups."""
    module = Groups()
    optimizers = build_optimizers(module, module.parameter_groups(), config)

    def rates() -> tuple[float, ...]:
        groups = [group for member in optimizers.members for group in member.param_groups]
        of_main = {float(group["lr"]) for group in groups if group["name"] == "main"}
        assert len(of_main) == 1  # that of the table is that of the rest
        return (*of_main, *(float(g["lr"]) for g in groups if g["name"] == "multimodal"))

    return optimizers, Schedule(optimizers.members, config, larger_is_better), rates


def rates_per_epoch(config: TrainingConfig, n_epochs: int) -> list[tuple[float, ...]]:
    optimizers, schedule, rates_now = build(config)
    rates = []
    for _ in range(n_epochs):
        rates.append(rates_now())
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


def test_cosine_goes_down_once_over_all_epochs() -> None:
    rates = rates_per_epoch(TrainingConfig(schedule="cosine", max_epochs=8), 8)
    for epoch, (main, multimodal) in enumerate(rates):
        cosine = (1 + math.cos(math.pi * epoch / 8)) / 2
        assert main == pytest.approx(1e-6 + (2e-3 - 1e-6) * cosine, rel=1e-9)
        assert multimodal == pytest.approx(1e-6 + (5e-4 - 1e-6) * cosine, rel=1e-9)


def test_cosine_waits_for_the_end_of_an_epoch() -> None:
    optimizers, schedule, rates = build(TrainingConfig())
    optimizers.step()
    before = rates()
    schedule.after_validation(0.5, epoch_ended=False)
    assert rates() == before
    schedule.after_validation(0.5, epoch_ended=True)
    assert rates() < before


@pytest.mark.parametrize("larger_is_better", [True, False])
@pytest.mark.parametrize("epoch_ended", [True, False])
def test_a_plateau_of_so_many_validations_lowers_the_rates_down_to_the_least(
    larger_is_better: bool, epoch_ended: bool
) -> None:
    config = TrainingConfig(
        schedule="plateau", plateau_patience=2, plateau_factor=0.1, min_learning_rate=1e-4
    )
    _, schedule, rates = build(config, larger_is_better)
    found = []
    for value in (0.5, 0.6, 0.6, 0.61, 0.6, 0.5, 0.6, 0.6, 0.6):
        schedule.after_validation(value if larger_is_better else -value, epoch_ended)
        found.append(rates())
    assert found[:5] == [(2e-3, 5e-4)] * 5
    assert found[5] == found[6] == pytest.approx((2e-4, 1e-4))
    assert found[7] == found[8] == pytest.approx((1e-4, 1e-4))


@pytest.mark.parametrize("name", ["cosine_restarts", "cosine", "plateau", "constant"])
def test_a_saved_schedule_goes_on_where_it_was(name: str) -> None:
    config = TrainingConfig(schedule=name, restart_epochs=2, max_epochs=9)
    optimizers, schedule, rates = build(config)
    values = [0.1, 0.3, 0.2, 0.4, 0.4, 0.1, 0.5]
    optimizers.step()
    for value in values[:3]:
        schedule.after_validation(value, epoch_ended=True)
    other_optimizers, other, other_rates = build(config)
    other_optimizers.load_state_dict(copy.deepcopy(optimizers.state_dict()))
    other.load_state_dict(copy.deepcopy(schedule.state_dict()))
    for value in values[3:]:
        assert other_rates() == rates()
        schedule.after_validation(value, epoch_ended=True)
        other.after_validation(value, epoch_ended=True)
    assert other_rates() == rates()
