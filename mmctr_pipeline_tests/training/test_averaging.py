"""Averaged weights equal explicit weighted means, alone and within a run."""

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.layers.embedding import EmbeddingTable
from mmctr_pipeline.training.averaging import SNAPSHOTS_PER_EPOCH, WeightAverage
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline_tests.training.toy_runs import Weight, fit_toy, make_batches, squared_error

SNAPSHOT_WEIGHTS = {1.0: lambda t: t, 3.0: lambda t: t * (t + 1) * (t + 2)}
"""The weight of snapshot t, by power: about t to that power."""


def weighted_mean(values: list[torch.Tensor], power: float) -> torch.Tensor:
    weights = [SNAPSHOT_WEIGHTS[power](t) for t in range(1, len(values) + 1)]
    total = sum(weight * value.double() for weight, value in zip(weights, values, strict=True))
    return (total / sum(weights)).float()


@pytest.mark.parametrize("power", SNAPSHOT_WEIGHTS)
def test_late_snapshots_count_more_and_batch_statistics_are_averaged_too(power: float) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(module, power, SNAPSHOTS_PER_EPOCH)
    seen: list[dict[str, torch.Tensor]] = []
    for _ in range(7):
        module(torch.randn(5, 3))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.advance(1)
        seen.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
    with average.applied():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                expected = weighted_mean([snapshot[name] for snapshot in seen], power)
                torch.testing.assert_close(tensor, expected)
        assert module[1].num_batches_tracked == 7
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, seen[-1][name])


class CountingServer:
    """Serves a table, and counts how often it is brought up to date."""

    n_flushes = 0

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def flush(self) -> None:
        self.n_flushes += 1


@pytest.mark.parametrize(("batch_size", "n_snapshots"), [(1, 16), (5, 16), (20, 8), (160, 1)])
def test_an_epoch_has_at_most_sixteen_snapshots_of_up_to_date_tables(
    batch_size: int, n_snapshots: int
) -> None:
    table = EmbeddingTable(2, 1)
    table.server = server = CountingServer()
    average = WeightAverage(table, 1.0, 160)
    for _ in range(2):
        for start in range(0, 160, batch_size):
            average.advance(min(batch_size, 160 - start))
    assert server.n_flushes == 2 * n_snapshots
    assert average.state_dict()["n_snapshots"] == 2 * n_snapshots


def test_with_power_zero_nothing_is_averaged_and_no_table_is_read() -> None:
    table = EmbeddingTable(2, 1)
    table.server = server = CountingServer()
    average = WeightAverage(table, 0.0, 1)
    average.advance(1)
    assert server.n_flushes == 0
    weight = table.weight.detach().clone()
    with average.applied():
        assert torch.equal(table.weight, weight)
    assert average.state_dict()["mean"] == {}


def test_a_run_validates_and_keeps_the_average_while_training_continues_without_it() -> None:
    after_steps: list[torch.Tensor] = []
    validated: list[torch.Tensor] = []

    def loss(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        after_steps.append(module.get_parameter("weight").detach().clone())
        return squared_error(module, batch)

    def evaluate(module: nn.Module) -> dict[str, float]:
        validated.append(module.get_parameter("weight").detach().clone())
        return {"score": [0.1, 0.5, 0.2][len(validated) - 1]}

    def trained(power: float) -> Weight:
        module = Weight()
        config = TrainingConfig(max_epochs=3, learning_rate=0.1, weight_averaging=power)
        fit_toy(module, config, evaluate, make_batches(4, 4, 2), loss)
        return module

    trained(0.0)
    plain = list(after_steps)
    after_steps.clear()
    validated.clear()
    module = trained(1.0)
    # Averaging does not affect training.
    assert torch.equal(torch.stack(after_steps), torch.stack(plain))
    # Before step i the weights are those after step i - 1; an epoch has three steps.
    torch.testing.assert_close(validated[0], weighted_mean(after_steps[1:4], 1.0))
    torch.testing.assert_close(validated[1], weighted_mean(after_steps[1:7], 1.0))
    assert torch.equal(module.weight, validated[1])
