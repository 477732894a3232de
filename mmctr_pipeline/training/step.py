"""One training step: forward, backward, clipping and update, in parts if memory runs out."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sized
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from mmctr_pipeline.precision import dtype_for
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers.build import Optimizers
from mmctr_pipeline.training.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)

BatchT = TypeVar("BatchT", bound=Sized)

_FEWEST_ROWS = 2
"""Fewest rows of a part: BatchNorm cannot take the variance of one row."""

Step = Callable[[BatchT, Callable[[torch.Tensor], None]], torch.Tensor]
"""A function that trains on a batch, passes its mean loss to the second argument before it updates
the weights, and returns the loss."""


class TrainingDivergedError(RuntimeError):
    """The loss or the deciding metric became infinite or NaN; the message says when."""


@dataclasses.dataclass
class TrainStep(Generic[BatchT]):
    """Trains a module on one batch after another.

    If memory runs out, the step halves the batch, adds up the gradients of the parts before the
    update, does so in all further steps, and logs a warning. The update is the same up to rounding,
    with these differences: BatchNorm sees one part at a time, its running statistics also include
    the failed attempt, splitting a batch waits for the device, and a loss that relates a row to
    others of its batch (pairs, in-batch negatives) is limited to the rows of its part.

    Parameters
    ----------
    module, loss
        Module to train, and its mean loss over the rows of a batch.
    optimizers
        Optimisers of the module.
    config
        Number format and the norm for clipping.
    device
        Device of the module.
    split
        `split(batch, n)` cuts a batch into n parts; None if that is impossible.
    ranks
        Processes that divide each batch and average their gradients.
    n_parts
        Number of parts that each batch is cut into.
    gradient_norms
        Gradient norms of the steps, before clipping.
    """

    module: nn.Module
    loss: Callable[[nn.Module, BatchT], torch.Tensor]
    optimizers: Optimizers
    config: TrainingConfig
    device: torch.device
    split: Callable[[BatchT, int], list[BatchT]] | None
    n_parts: int = 1
    ranks: Ranks = ALONE
    gradient_norms: "GradientNorms" = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self._replica = self.ranks.replicated(self.module, self.optimizers.tables)
        self.gradient_norms = GradientNorms(self.device)

    def __call__(self, batch: BatchT, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
        """Train on `batch` and return its mean loss, a scalar on the device, without waiting.

        `check` receives the loss before the update.
        """
        value = self.gradients(batch)
        check(value)
        self.update()
        self.count()
        return value

    def gradients(self, batch: BatchT) -> torch.Tensor:
        """Set the gradients of `batch` on the parameters; return its mean loss."""
        while True:
            try:
                return self.gradients_or_raise(batch)
            except RuntimeError as error:
                too_small = len(batch) < 2 * self.n_parts * _FEWEST_ROWS
                if not is_out_of_memory(error) or self.split is None or too_small:
                    raise
            # Outside `except`, so that the tensors of the failed attempt have been freed.
            self.optimizers.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.n_parts *= 2
            logger.warning(
                f"out of memory at {2 * len(batch) // self.n_parts:,} rows: from now on each step "
                f"adds up {self.n_parts} parts of {len(batch) // self.n_parts:,} rows "
                "(a smaller batch_size would avoid this)"
            )

    def update(self) -> None:
        """Clip the gradients and update the weights, on the device alone."""
        self.optimizers.share_gradients(self.ranks)
        self.gradient_norms.add(self.optimizers.clip(self.config.gradient_clip_norm))
        self.optimizers.step()

    def count(self) -> None:
        """Do the part of a step that runs on the host."""
        self.optimizers.count_step()

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        """Return all tensors that a step changes, by their kind."""
        module: dict[str, list[torch.Tensor]] = {
            "parameters": [*self.module.parameters()],
            "buffers": [*self.module.buffers()],
            "gradient norms": self.gradient_norms.tensors,
        }
        return module | self.optimizers.tensors()

    def state_dict(self) -> dict[str, int]:
        """Return the number of parts."""
        return {"n_parts": self.n_parts}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what `state_dict` returned."""
        self.n_parts = state["n_parts"]

    def gradients_or_raise(self, batch: BatchT) -> torch.Tensor:
        """Do the same as `gradients`, but raise if memory runs out."""
        self.optimizers.zero_grad()
        n_rows, parts = len(batch), [batch]
        if self.n_parts > 1 and self.split is not None:
            # The last batch of an epoch may be too small for that many parts.
            parts = self.split(batch, max(1, min(self.n_parts, n_rows // _FEWEST_ROWS)))
        dtype = dtype_for(self.config.precision, self.device)
        total = torch.zeros((), device=self.device)
        for part in parts:
            with autocast(dtype, self.device):
                value = self.loss(self._replica, part)
            if len(parts) > 1:
                value = value * (len(part) / n_rows)
            value.backward()
            total = total + value.detach()
        return self.ranks.mean(total)


def autocast(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context with matrix products in `dtype`; it does nothing for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    # On CUDA there is no cache of casts: a step casts each weight only once, so it would save
    # nothing, and it must not outlive a captured graph.
    return torch.autocast(device.type, dtype=dtype, cache_enabled=device.type != "cuda")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch ran out of memory; on the CPU, its error has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class GradientNorms:
    """Mean and maximum of gradient norms since `reset`; `add` does not wait for the device."""

    def __init__(self, device: torch.device) -> None:
        # One dimension each, as the check of a CUDA graph would take scalars for exact counters.
        self._sum = torch.zeros(1, dtype=torch.float64, device=device)
        self._largest = torch.zeros(1, device=device)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors that `add` changes."""
        return [self._sum, self._largest]

    def add(self, norm: torch.Tensor) -> None:
        """Add the norm of one step, a scalar."""
        self._sum += norm
        torch.maximum(self._largest, norm, out=self._largest)

    def summary(self, n_steps: int) -> tuple[float, float]:
        """Return mean and maximum of the norms of `n_steps` steps."""
        return float(self._sum) / max(n_steps, 1), float(self._largest)

    def reset(self) -> None:
        """Forget all norms."""
        for tensor in self.tensors:
            tensor.zero_()


class LossMeter:
    """Mean loss over part of an epoch; raises on losses that are not finite.

    On the CPU `check` raises, before such a loss harms the weights. On other devices, checking in
    each step would make the host wait, so `mean` raises there.
    """

    def __init__(self, epoch: int, device: torch.device) -> None:
        self._epoch = epoch
        self._on_cpu = device.type == "cpu"
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self._first_bad = torch.full((), torch.iinfo(torch.int64).max, device=device)
        self._step = self._n_rows = 0

    @property
    def n_steps(self) -> int:
        """Number of steps so far."""
        return self._step

    def check(self, loss: torch.Tensor) -> None:
        """Count a step and check its mean loss; raises `TrainingDivergedError` on the CPU only."""
        self._step += 1
        if self._on_cpu:
            if not math.isfinite(loss.item()):
                raise self._error(self._step, loss.item())
            return
        bad = torch.where(torch.isfinite(loss), torch.iinfo(torch.int64).max, self._step)
        torch.minimum(self._first_bad, bad, out=self._first_bad)

    def add(self, loss: torch.Tensor, n_rows: int) -> None:
        """Add the mean loss of `n_rows` rows."""
        self._sum += loss.double() * n_rows
        self._n_rows += n_rows

    def mean(self) -> float:
        """Return the mean over rows; raises `TrainingDivergedError` if a loss was not finite."""
        first_bad = int(self._first_bad)
        mean = float(self._sum) / max(self._n_rows, 1)
        if first_bad <= self._step or not math.isfinite(mean):
            raise self._error(min(first_bad, self._step), mean)
        return mean

    def _error(self, step: int, value: float) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"epoch {self._epoch}, step {step}: the loss is {value}; "
            "lower the learning rate, or look for extreme values in the item vectors"
        )
