"""When a step is captured, on stand-ins for CUDA; and, on a CUDA device, that it trains as a plain
one does."""

import contextlib
import dataclasses
from collections.abc import Callable

import pytest
import torch

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline.training.cuda_graph import GraphedStep
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample

MODEL = dataclasses.replace(SMALL_MODEL, dropout=0.0, multimodal_dropout=0.0)


def trained(cuda_graph: bool, device: str, optimizer: str = "row_adamw") -> TrainedCtr:
    training = TrainingConfig(
        max_epochs=3,
        batch_size=128,
        precision="float32",
        cuda_graph=cuda_graph,
        optimizer=optimizer,
        validations_per_epoch=2,
    )
    # Of 4,000 rows the last batch is smaller: it is of another shape.
    return train_ctr(*small_sample(), MODEL, training, torch.device(device))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["row_adamw", "adamw"])
def test_captured_and_plain_steps_train_alike(optimizer: str) -> None:
    histories = [trained(graph, "cuda:0", optimizer).history.epochs for graph in (True, False)]
    for captured, plain in zip(*histories, strict=True):
        # Sums on the device are not always taken in the same order.
        assert captured.train_loss == pytest.approx(plain.train_loss, rel=1e-3)
        assert captured.learning_rate == plain.learning_rate
        assert captured.metrics["valid_auc"] == pytest.approx(plain.metrics["valid_auc"], abs=0.01)


def test_the_setting_has_no_effect_on_the_cpu() -> None:
    captured, plain = (trained(graph, "cpu") for graph in (True, False))
    for name, tensor in captured.module.state_dict().items():
        assert torch.equal(tensor, plain.module.state_dict()[name]), name


@dataclasses.dataclass
class Alike:
    """A batch of which nothing matters but its shape and what it holds."""

    size: int
    content: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    def __len__(self) -> int:
        return self.size

    def clone(self) -> "Alike":
        return dataclasses.replace(self)

    def copy_from(self, other: "Alike") -> None:
        self.content = other.content


class Recorded:
    """A step that notes what it is asked to do, where GraphedStep expects a `TrainStep`."""

    def __init__(self, memory_for_capture: bool = True) -> None:
        self.n_parts = 1
        self.trained_aside: list[int] = []
        self.captured: list[Alike] = []
        self.n_counted = 0
        self._memory_for_capture = memory_for_capture

    def __call__(self, batch: Alike, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
        self.trained_aside.append(batch.content)
        self.count()
        return torch.zeros(())

    def gradients_of(self, batch: Alike) -> torch.Tensor:
        if not self._memory_for_capture:
            raise torch.OutOfMemoryError
        self.captured.append(batch)
        return torch.zeros(())

    def update(self) -> None:
        pass

    def count(self) -> None:
        self.n_counted += 1


class Device:
    """CUDA's part: streams that do nothing, and graphs that note what lay there when replayed."""

    def __init__(self, step: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step = step
        self.replayed: list[int] = []
        nothing = contextlib.nullcontext
        for name in ("device", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, lambda which: nothing())
        for name in ("Stream", "current_stream", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, lambda: self)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)

    def wait_stream(self, stream: "Device") -> None:
        pass

    def replay(self) -> None:
        self.replayed.append(self.step.captured[-1].content)


def epochs_of(step: Recorded, n_epochs: int) -> list[int]:
    """Train on five batches of one shape and a shorter one, epoch after epoch."""
    graphed: GraphedStep[Alike] = GraphedStep(step, torch.device("cpu"))  # type: ignore[arg-type]
    contents = list(range(6 * n_epochs))
    for content in contents:
        graphed(Alike(3 if content % 6 == 5 else 8, content), lambda loss: None)
    return contents


def test_the_frequent_shape_is_captured_once_and_every_batch_trained_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Recorded()
    device = Device(step, monkeypatch)
    contents = epochs_of(step, n_epochs=12)
    assert [batch.size for batch in step.captured] == [8]
    assert sorted(step.trained_aside + device.replayed) == contents
    assert [content for content in step.trained_aside if content % 6 != 5] == [0, 1, 2]
    assert step.n_counted == len(contents)


def test_batches_train_as_they_are_where_there_is_no_memory_for_a_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Recorded(memory_for_capture=False)
    device = Device(step, monkeypatch)
    assert step.trained_aside == [] == device.replayed
    assert epochs_of(step, n_epochs=2) == step.trained_aside


def test_steps_in_parts_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Recorded()
    step.n_parts = 2
    Device(step, monkeypatch)
    assert epochs_of(step, n_epochs=2) == step.trained_aside
    assert step.captured == []


def test_another_shape_that_becomes_frequent_takes_the_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Recorded()
    device = Device(step, monkeypatch)
    graphed: GraphedStep[Alike] = GraphedStep(step, torch.device("cpu"))  # type: ignore[arg-type]
    for content in range(20):
        graphed(Alike(8 if content < 10 else 9, content), lambda loss: None)
    assert [batch.size for batch in step.captured] == [8, 9]
    assert sorted(step.trained_aside + device.replayed) == list(range(20))
