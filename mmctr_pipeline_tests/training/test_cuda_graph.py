"""Steps are captured, checked and replayed when they should be, on a stand-in for CUDA."""

import dataclasses
import logging
from collections.abc import Callable

import pytest
import torch

from mmctr_pipeline.training.cuda_graph import GraphedStep
from mmctr_pipeline_tests.training.recorded_graph import RecordedGraph, pretend_cuda


@pytest.fixture(autouse=True)
def _cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch)


@dataclasses.dataclass(frozen=True)
class Numbered:
    """A batch that consists of its number and of rows without content."""

    number: torch.Tensor
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    def __len__(self) -> int:
        return self.size

    def clone(self) -> "Numbered":
        return dataclasses.replace(self, number=self.number.clone())

    def copy_from(self, other: "Numbered") -> None:
        self.number.copy_(other.number)


class CountingStep:
    """Stand-in for `TrainStep` that counts how often it was trained on each batch."""

    def __init__(self, n_batches: int = 30) -> None:
        self.n_parts = 1
        self.n_trained = torch.zeros(n_batches)
        self.total = torch.zeros((), dtype=torch.int64)
        self.n_counted = 0
        self.plain: list[int] = []
        self.captured: list[int] = []

    def __call__(self, batch: Numbered, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
        loss = self.gradients(batch)
        check(loss)
        self.update()
        self.count()
        return loss

    def gradients(self, batch: Numbered) -> torch.Tensor:
        self.plain.append(int(batch.number))
        self.batch = batch
        return batch.number.float().mean() + 1

    def gradients_or_raise(self, batch: Numbered) -> torch.Tensor:
        self.captured.append(batch.size)
        self.batch = batch
        return batch.number.float().mean() + 1

    def update(self) -> None:
        self.n_trained.index_add_(0, self.batch.number, torch.ones(1))
        self.total += 1

    def count(self) -> None:
        self.n_counted += 1

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        return {"counts": [self.n_trained], "totals": [self.total]}


def train(step: CountingStep, sizes: Callable[[int], int] = lambda number: 8) -> list[float]:
    """Train on numbered batches of the given sizes; return the losses that were checked."""
    graphed: GraphedStep[Numbered] = GraphedStep(step, torch.device("cpu"))  # type: ignore[arg-type]
    losses: list[float] = []
    for number in range(len(step.n_trained)):
        batch = Numbered(torch.tensor([number]), sizes(number))
        loss = graphed(batch, lambda loss: losses.append(float(loss)))
        assert float(loss) == losses[-1] == number + 1
    assert step.n_trained.tolist() == [1] * len(step.n_trained)
    assert int(step.total) == step.n_counted == len(losses) == len(step.n_trained)
    return losses


def shorter_every_sixth(number: int) -> int:
    return 3 if number % 6 == 5 else 8


def test_the_frequent_shape_is_captured_once_and_then_replayed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    step = CountingStep(60)
    train(step, shorter_every_sixth)
    assert step.captured == [8]
    # Three steps warm up, the capture needs a fourth, and the check of the first replay a fifth.
    assert [number for number in step.plain if number % 6 != 5] == [0, 1, 2, 3, 4]
    assert caplog.text == ""


def test_the_graph_is_captured_again_for_a_shape_that_becomes_frequent() -> None:
    step = CountingStep(20)
    train(step, lambda number: 8 if number < 10 else 9)
    assert step.captured == [8, 9]
    assert step.plain == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


def test_steps_in_parts_are_not_captured() -> None:
    step = CountingStep()
    step.n_parts = 2
    train(step)
    assert step.captured == []


class StepWithoutMemory(CountingStep):
    def gradients_or_raise(self, batch: Numbered) -> torch.Tensor:
        raise torch.OutOfMemoryError


def test_steps_run_without_a_graph_if_it_does_not_fit_into_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    step = StepWithoutMemory()
    train(step)
    assert step.plain == list(range(30))
    assert caplog.text == ""


class StepThatWaits(CountingStep):
    """The host waits for a value of the device, which a capture does not allow."""

    def update(self) -> None:
        super().update()
        self.total.item()


class StepWithHostIndex(CountingStep):
    """An index that the host computes stays what it was during the capture."""

    def update(self) -> None:
        self.n_trained[self.plain[-1]] += 1
        self.total += 1


class StepWithHostCounter(CountingStep):
    """A counter of the host stays what it was during the capture."""

    def update(self) -> None:
        self.n_trained.index_add_(0, self.batch.number, torch.ones(1))
        self.total.fill_(len(self.plain))


class StepWithHostLoss(CountingStep):
    """A number that the host adds to the loss stays what it was during the capture."""

    def gradients_or_raise(self, batch: Numbered) -> torch.Tensor:
        return super().gradients_or_raise(batch) + len(self.plain)


def stop_halfway(graph: RecordedGraph) -> None:
    function, args, kwargs, _ = graph.calls[-1]
    function(*args, **kwargs)
    raise RuntimeError("an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("step", "replay", "problem"),
    [
        (StepThatWaits(), None, "its capture failed: aten._local_scalar_dense"),
        (StepWithHostIndex(), None, "its counts differ from a plain step's by 1.4 of"),
        (StepWithHostCounter(), None, "its totals differ from a plain step's by inf of"),
        (StepWithHostLoss(), None, "its loss is 8.0 instead of 5.0"),
        (CountingStep(), stop_halfway, "its replay failed: an illegal memory access"),
    ],
)
def test_a_graph_that_fails_or_differs_from_plain_steps_is_dropped_with_a_warning(
    step: CountingStep,
    replay: Callable[[RecordedGraph], None] | None,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if replay:
        monkeypatch.setattr(RecordedGraph, "replay", replay)
    train(step)
    assert step.plain == list(range(30))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"training continues without the CUDA graph, which is slower: {problem}" in caplog.text
