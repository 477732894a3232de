"""Training steps as one CUDA graph: the host starts a step with one call instead of hundreds."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic

import torch

from mmctr_pipeline.training.step import BatchT, TrainStep, is_out_of_memory

logger = logging.getLogger(__name__)

_WARM_UP_STEPS = 3
"""Steps before the capture, so that libraries have made their plans (torch asks for a few)."""

_LOSS_TOLERANCE = 1e-3
"""Largest relative difference of the losses of a replayed and a plain step."""

_UPDATE_TOLERANCE = 0.25
"""Largest norm of the difference of a replayed and a plain update, relative to the plain one.

Rounding alone causes differences of up to 3 % in Adam's moments and 8 % in weights. (This was
measured in bfloat16 by putting the rows in another order; in float32 it was 0.8 %.) Most of it
comes from weights whose true gradient is zero, which Adam moves as far as others. Updates from
wrong inputs differed by at least 32 %.
"""


class GraphedStep(Generic[BatchT]):
    """A `TrainStep` that is captured once and then replayed, if most batches have one shape.

    The first steps run plainly, on a stream of their own, and train like any other. Then the step
    is captured on static tensors, and each further batch of that shape is copied to these tensors
    (so batches need `shape`, `clone` and `copy_from`). Batches of another shape run plainly; if
    several of one shape come in a row, the step is captured again for it. Once memory has run out,
    everything runs plainly.
    (https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)

    The first replay is checked against the plain step, with the same batch, weights and random
    numbers. If it differs beyond rounding, or if capture or replay raise an error, a warning is
    logged and training continues without a graph.
    """

    def __init__(self, step: TrainStep[BatchT], device: torch.device) -> None:
        self._step, self._device = step, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_checked = False
        self._has_failed = False
        self._static: Any = None
        self._loss = torch.zeros(())
        self._last_shape: tuple[int, ...] = ()
        self._in_a_row = 0
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, batch: BatchT, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
        """Train on `batch` and return its mean loss; see `TrainStep`."""
        shape = batch.shape  # type: ignore[attr-defined]
        with torch.cuda.device(self._device):
            if self._graph is None or shape != self._static.shape:
                if self._is_frequent(shape):
                    self._capture(batch)
                return self._run_plain(batch, check)
            self._last_shape, self._in_a_row = (), 0
            if not self._is_checked:
                return self._run_checked(batch, check)
            self._replay(batch)
            self._step.count()
            check(self._loss)
            return self._loss

    def _is_frequent(self, shape: tuple[int, ...]) -> bool:
        """Return whether enough batches of this shape came in a row to capture the step."""
        self._in_a_row = self._in_a_row + 1 if shape == self._last_shape else 1
        self._last_shape = shape
        can_capture = self._step.n_parts == 1 and not self._has_failed
        return can_capture and self._in_a_row > _WARM_UP_STEPS

    def _run_plain(self, batch: BatchT, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
        with self._side_stream():
            return self._step(batch, check)

    @contextlib.contextmanager
    def _side_stream(self) -> Iterator[None]:
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)

    def _replay(self, batch: BatchT) -> None:
        assert self._graph is not None
        self._static.copy_from(batch)
        self._graph.replay()

    def _capture(self, batch: BatchT) -> None:
        """Capture the step on a copy of `batch`; this trains nothing."""
        self._graph = None  # this frees its memory
        self._is_checked = False
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        random_state = generator.clone_state()
        graph = torch.cuda.CUDAGraph()
        try:
            self._static = batch.clone()  # type: ignore[attr-defined]
            torch.cuda.synchronize()
            # Some releases of torch leave their own stream current if the capture fails.
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
                self._loss = self._step.gradients_or_raise(self._static)
                self._step.update()
        except Exception as error:
            # After a failed capture the generator would refuse to draw random numbers.
            generator.graphsafe_set_state(random_state)
            if not is_out_of_memory(error):  # if it is, the plain step may halve the batch
                self._give_up(f"its capture failed: {error}")
        else:
            self._graph = graph

    def _run_checked(self, batch: BatchT, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
        """Train on `batch` plainly, and keep the graph if its replay does the same."""
        before, replayed, replayed_loss, problem = {}, {}, 0.0, ""
        random_state = torch.cuda.get_rng_state()
        try:
            before = self._copy_tensors()
            self._replay(batch)
            replayed, replayed_loss = self._copy_tensors(), self._loss.item()
        except Exception as error:
            problem = f"its replay failed: {error}"
        tensors = self._step.tensors()
        with torch.no_grad():
            for name, copies in before.items():
                for tensor, copy in zip(tensors[name], copies, strict=True):
                    tensor.copy_(copy)
        torch.cuda.set_rng_state(random_state)
        with self._side_stream():
            loss = self._step.gradients(batch)
            check(loss)
            self._step.update()
        if not problem and not math.isclose(replayed_loss, loss.item(), rel_tol=_LOSS_TOLERANCE):
            problem = f"its loss is {replayed_loss} instead of {loss.item()}"
        for name in tensors if not problem else ():
            share = _difference(before[name], replayed[name], tensors[name])
            if not share <= _UPDATE_TOLERANCE:
                problem = f"its {name} differ from a plain step's by {share:.2g} of the update"
        if problem:
            self._give_up(problem)
        self._is_checked = True
        self._step.count()  # after the comparison, as counting may update whole tables
        return loss

    def _copy_tensors(self) -> dict[str, list[torch.Tensor]]:
        """Return copies, in the host's memory, of all tensors that a step changes."""
        return {
            name: [tensor.detach().to("cpu", copy=True) for tensor in tensors]
            for name, tensors in self._step.tensors().items()
        }

    def _give_up(self, problem: str) -> None:
        self._graph, self._has_failed = None, True
        logger.warning(
            f"training continues without the CUDA graph, which is slower: {problem} "
            "(training.cuda_graph=false avoids the attempt)"
        )


def _difference(
    before: Sequence[torch.Tensor], replayed: Sequence[torch.Tensor], plain: Sequence[torch.Tensor]
) -> float:
    """Return the norm of the difference of the two updates, relative to the plain one.

    Counters (integers, and tensors without a dimension) have to be equal, else the result is
    infinite.
    """
    update = difference = 0.0
    for old, found, tensor in zip(before, replayed, plain, strict=True):
        expected = tensor.detach().cpu()
        if expected.is_floating_point() and expected.ndim > 0:
            update += _norm(expected - old) ** 2
            difference += _norm(expected - found) ** 2
        elif not torch.equal(expected, found):
            return math.inf
    if difference == 0:
        return 0.0
    return math.sqrt(difference / update) if update else math.inf


def _norm(values: torch.Tensor) -> float:
    return torch.linalg.vector_norm(values, dtype=torch.float64).item()
