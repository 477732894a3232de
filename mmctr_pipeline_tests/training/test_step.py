"""One step: gradients whole or in parts where memory runs out, number formats, the loss meter."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.layers.embedding import EmbeddingTable
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers.build import build_optimizers
from mmctr_pipeline.training.step import (
    LossMeter,
    TrainingDivergedError,
    TrainStep,
    autocast,
    is_out_of_memory,
)

CPU = torch.device("cpu")
MORE_THAN_THERE_IS = 1 << 46
"""Values that no address space holds."""


@dataclasses.dataclass
class Memory:
    """A loss for which there is memory up to `n_rows` rows, and the sizes that it was asked for."""

    n_rows: int
    error: Exception | None = None
    asked: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, module: nn.Module, ids_B: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(ids_B))
        loss = (module(ids_B) - ids_B.unsqueeze(1) / 10).square().mean()
        if len(ids_B) > self.n_rows:
            if self.error:
                raise self.error
            torch.empty(MORE_THAN_THERE_IS)
        return loss


def module_of_rows() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(EmbeddingTable(50, 3), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def step_with(memory: Memory, can_split: bool = True) -> tuple[nn.Module, TrainStep[torch.Tensor]]:
    module = module_of_rows()
    config = TrainingConfig(precision="float32", learning_rate=0.01)
    optimizers = build_optimizers(module, {"main": list(module.parameters())}, config)
    split = (lambda batch, n: list(batch.tensor_split(n))) if can_split else None
    return module, TrainStep(module, memory, optimizers, config, CPU, split)


def ids_of(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, 50, (size,), generator=generator) for size in sizes]


@pytest.mark.parametrize("error", [None, torch.OutOfMemoryError("CUDA out of memory.")])
def test_where_memory_runs_out_parts_are_halved_until_they_fit(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(17, error)
    module, step = step_with(memory)
    whole, whole_step = step_with(Memory(1000))
    (ids_B,) = ids_of(64)
    loss, expected = step.gradients(ids_B), whole_step.gradients(ids_B)
    assert memory.asked == [64, 32, 16, 16, 16, 16]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for part, plain in zip(module[1:].parameters(), whole[1:].parameters(), strict=True):  # type: ignore[index]
        assert torch.allclose(part.grad, plain.grad, rtol=1e-6, atol=1e-7)
    for line, rows, parts, size in zip(caplog.messages, (64, 32), (2, 4), (32, 16), strict=True):
        assert line.startswith(f"out of memory at {rows} rows: from here on ")
        assert f"adds up {parts} parts of {size} rows" in line
        assert "batch_size" in line


def test_steps_in_parts_train_the_same_weights_tables_included(
    caplog: pytest.LogCaptureFixture,
) -> None:
    batches = ids_of(64, 64, 50, 64)
    memory = Memory(17)
    module, step = step_with(memory)
    whole, whole_step = step_with(Memory(1000))
    seen: list[float] = []
    for batch in batches:
        loss = step(batch, lambda value: seen.append(value.item()))
        expected = whole_step(batch, lambda value: None)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert seen[-1] == loss.item()
    # Once halved, later steps do not try the whole batch again.
    assert memory.asked[6:] == [16] * 4 + [13, 13, 12, 12] + [16] * 4
    assert len(caplog.messages) == 2
    every_row = torch.arange(50)
    ours, theirs = module[0](every_row), whole[0](every_row)  # type: ignore[index]
    assert not torch.equal(theirs, module_of_rows()[0].weight)  # type: ignore[index]
    # A weight whose gradient all but vanishes may move a little differently.
    assert torch.allclose(ours, theirs, atol=1e-4)
    for part, plain in zip(module[1:].parameters(), whole[1:].parameters(), strict=True):  # type: ignore[index]
        assert torch.allclose(part, plain, atol=1e-4)


def test_a_small_batch_is_cut_into_no_more_parts_than_it_has_pairs_of_rows() -> None:
    memory = Memory(8)
    _, step = step_with(memory)
    for batch in ids_of(64, 5, 3, 2):
        step(batch, lambda loss: None)
    assert memory.asked[-4:] == [3, 2, 3, 2]


@pytest.mark.parametrize("can_split", [True, False])
def test_a_batch_that_cannot_be_cut_raises(
    can_split: bool, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(1)
    _, step = step_with(memory, can_split)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        step.gradients(ids_of(8)[0])
    assert memory.asked == ([8, 4, 2] if can_split else [8])
    assert len(caplog.messages) == len(memory.asked) - 1


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = Memory(4, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    _, step = step_with(memory)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        step.gradients(ids_of(8)[0])
    assert memory.asked == [8]
    assert caplog.messages == []


def test_a_lack_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(MORE_THAN_THERE_IS)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(RuntimeError) as raised:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(raised.value)


def test_autocast_sets_the_format_of_products_and_float32_sets_none() -> None:
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

    for precision in ("bfloat16", "float32"):
        module = nn.Linear(3, 1)
        config = TrainingConfig(precision=precision)
        optimizers = build_optimizers(module, {"main": list(module.parameters())}, config)
        step = TrainStep(module, loss, optimizers, config, CPU, None)
        assert step(torch.ones(4, 3), lambda value: None).dtype == torch.float32
        assert module.weight.dtype == torch.float32
        assert module.weight.grad is not None
        assert module.weight.grad.dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]


def test_the_meter_means_over_rows() -> None:
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
