"""Training steps as one CUDA graph: the host starts a step with one call instead of hundreds."""

from collections.abc import Callable
from typing import Any, Generic

import torch

from mmctr_pipeline.training.step import BatchT, TrainStep, is_out_of_memory

_WARM_UP_STEPS = 3
"""Steps before the capture, so that libraries have made their plans (torch asks for a few)."""


class GraphedStep(Generic[BatchT]):
    """A `TrainStep` for batches that mostly have one shape, captured once and then replayed.

    The first steps run as they are, on a stream of their own, and train like any other. Then the
    step is captured on a batch of static tensors, which every further batch of that shape is
    copied to (so it needs `shape`, `clone` and `copy_from`). Batches of another shape run as they
    are, until several come in a row, which are captured instead; so do all where memory ran out.
    (https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)
    """

    def __init__(self, step: TrainStep[BatchT], device: torch.device) -> None:
        self._step, self._device = step, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static: Any = None
        self._loss = torch.zeros(())
        self._last_shape: tuple[int, ...] = ()
        self._in_a_row = 0
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, batch: BatchT, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
        """Train on `batch` and return its mean loss; see `TrainStep`."""
        with torch.cuda.device(self._device):
            if not self._is_captured(batch):
                return self._aside(batch, check)
            self._static.copy_from(batch)
            assert self._graph is not None
            self._graph.replay()
            self._step.count()
            check(self._loss)
            return self._loss

    def _is_captured(self, batch: BatchT) -> bool:
        """Return whether the graph takes `batch`, after capturing it where several were alike."""
        shape = batch.shape  # type: ignore[attr-defined]
        if self._graph is not None and shape == self._static.shape:
            self._last_shape, self._in_a_row = (), 0
            return True
        self._in_a_row = self._in_a_row + 1 if shape == self._last_shape else 1
        self._last_shape = shape
        if self._in_a_row <= _WARM_UP_STEPS or self._step.n_parts > 1:
            return False
        return self._capture(batch)

    def _aside(self, batch: BatchT, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._step(batch, check)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _capture(self, batch: BatchT) -> bool:
        """Capture the step; return whether there was memory for it."""
        self._graph = None  # with its memory
        self._static = batch.clone()  # type: ignore[attr-defined]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        try:
            with torch.cuda.graph(graph):
                self._loss = self._step.gradients_of(self._static)
                self._step.update()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False  # the step as it is will run out too, and halve the batch
        self._graph = graph
        return True
