"""A step computes gradients, in parts if memory runs out, in the configured number format."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.layers.embedding import EmbeddingTable
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers.build import Optimizers
from mmctr_pipeline.training.step import (
    LossMeter,
    TrainingDivergedError,
    TrainStep,
    autocast,
    is_out_of_memory,
)

CPU = torch.device("cpu")
TOO_MANY_VALUES = 1 << 46
"""More values than a machine can allocate."""


@dataclasses.dataclass
class Memory:
    """A loss with memory for at most `n_rows` rows, which records the size of each batch."""

    n_rows: int
    error: Exception | None = None
    sizes: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, module: nn.Module, ids_B: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(ids_B))
        loss = (module(ids_B) - ids_B.unsqueeze(1) / 10).square().mean()
        if len(ids_B) > self.n_rows:
            if self.error:
                raise self.error
            torch.empty(TOO_MANY_VALUES)
        return loss


class Rows(nn.Module):
    """A table and a small network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = EmbeddingTable(50, 3)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, ids_B: torch.Tensor) -> torch.Tensor:
        return self.network(self.table(ids_B))


def make_step(memory: Memory, can_split: bool = True) -> tuple[Rows, TrainStep[torch.Tensor]]:
    module = Rows()
    config = TrainingConfig(precision="float32", learning_rate=0.01)
    optimizers = Optimizers(module, {"main": list(module.parameters())}, config)
    split = (lambda batch, n: list(batch.tensor_split(n))) if can_split else None
    return module, TrainStep(module, memory, optimizers, config, CPU, split)


def random_ids(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, 50, (size,), generator=generator) for size in sizes]


@pytest.mark.parametrize("error", [None, torch.OutOfMemoryError("CUDA out of memory.")])
def test_parts_are_halved_until_they_fit_into_memory(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(17, error)
    module, step = make_step(memory)
    whole, whole_step = make_step(Memory(1000))
    (ids_B,) = random_ids(64)
    loss, expected = step.gradients(ids_B), whole_step.gradients(ids_B)
    assert memory.sizes == [64, 32, 16, 16, 16, 16]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, plain in zip(module.network.parameters(), whole.network.parameters(), strict=True):
        assert ours.grad is not None
        assert plain.grad is not None
        assert torch.allclose(ours.grad, plain.grad, rtol=1e-6, atol=1e-7)
    for line, rows, parts, size in zip(caplog.messages, (64, 32), (2, 4), (32, 16), strict=True):
        assert line.startswith(f"out of memory at {rows} rows: from now on ")
        assert f"adds up {parts} parts of {size} rows" in line
        assert "batch_size" in line


def test_steps_in_parts_train_the_same_weights_including_tables(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = Memory(17)
    module, step = make_step(memory)
    whole, whole_step = make_step(Memory(1000))
    seen: list[float] = []
    for batch in random_ids(64, 64, 50, 64):
        loss = step(batch, lambda value: seen.append(value.item()))
        expected = whole_step(batch, lambda value: None)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert seen[-1] == loss.item()
    # Later steps do not try the whole batch again.
    assert memory.sizes[6:] == [16] * 4 + [13, 13, 12, 12] + [16] * 4
    assert len(caplog.messages) == 2
    every_row = torch.arange(50)
    ours, theirs = module.table(every_row), whole.table(every_row)
    assert not torch.equal(theirs, Rows().table.weight)
    # A weight whose gradient nearly vanishes may move a little differently.
    assert torch.allclose(ours, theirs, atol=1e-4)
    for part, plain in zip(module.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.allclose(part, plain, atol=1e-4)


def test_a_small_batch_is_split_into_parts_of_at_least_two_rows() -> None:
    memory = Memory(8)
    _, step = make_step(memory)
    for batch in random_ids(64, 5, 3, 2):
        step(batch, lambda loss: None)
    assert memory.sizes[-4:] == [3, 2, 3, 2]


@pytest.mark.parametrize("can_split", [True, False])
def test_a_batch_that_cannot_be_split_further_raises(
    can_split: bool, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(1)
    _, step = make_step(memory, can_split)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        step.gradients(random_ids(8)[0])
    assert memory.sizes == ([8, 4, 2] if can_split else [8])
    assert len(caplog.messages) == len(memory.sizes) - 1


def test_other_errors_are_not_taken_for_lack_of_memory(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(4, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    _, step = make_step(memory)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        step.gradients(random_ids(8)[0])
    assert memory.sizes == [8]
    assert caplog.messages == []


def test_lack_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(TOO_MANY_VALUES)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(RuntimeError) as raised:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(raised.value)


def test_autocast_sets_the_format_of_products_except_for_float32() -> None:
    layer, values = nn.Linear(3, 2), torch.ones(1, 3)
    with autocast(torch.bfloat16, CPU):
        assert layer(values).dtype == torch.bfloat16
    with autocast(torch.float32, CPU):
        assert not torch.is_autocast_enabled("cpu")
        assert layer(values).dtype == torch.float32


def test_a_step_computes_in_the_configured_format_and_keeps_float32_weights() -> None:
    seen = []

    def loss(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        output = module(batch)
        seen.append(output.dtype)
        return output.float().square().mean()

    for config in (TrainingConfig(precision="bfloat16"), TrainingConfig(precision="float32")):
        module = nn.Linear(3, 1)
        optimizers = Optimizers(module, {"main": list(module.parameters())}, config)
        step = TrainStep(module, loss, optimizers, config, CPU, None)
        assert step(torch.ones(4, 3), lambda value: None).dtype == torch.float32
        assert module.weight.dtype == torch.float32
        assert module.weight.grad is not None
        assert module.weight.grad.dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]


def test_the_meter_averages_over_rows() -> None:
    meter = LossMeter(1, CPU)
    for loss, n_rows in ((1.0, 3), (5.0, 1)):
        meter.check(torch.tensor(loss))
        meter.add(torch.tensor(loss), n_rows)
    assert meter.mean() == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_meter_names_the_step_of_a_loss_that_is_not_finite(bad: float) -> None:
    meter = LossMeter(7, CPU)
    meter.check(torch.tensor(1.0))
    with pytest.raises(TrainingDivergedError, match=f"epoch 7, step 2: the loss is {bad}"):
        meter.check(torch.tensor(bad))
