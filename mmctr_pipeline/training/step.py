"""One training step: forward, backward, clipping, update; smaller parts where memory runs out."""

import contextlib
import logging
import math
from collections.abc import Callable, Sized
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from mmctr_pipeline.precision import dtype_for
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers.build import Optimizers

logger = logging.getLogger(__name__)

BatchT = TypeVar("BatchT", bound=Sized)

_FEWEST_ROWS = 2
"""Rows of a part at least: BatchNorm knows no variance of one."""


Step = Callable[[BatchT, Callable[[torch.Tensor], None]], torch.Tensor]
"""Trains on a batch and returns its mean loss; the second argument sees that before the update."""


class TrainingDivergedError(RuntimeError):
    """The loss became infinite or NaN; the message names epoch and step."""


class TrainStep(Generic[BatchT]):
    """Trains a module on one batch after another.

    Where memory runs out the batch is halved, its parts' gradients are added up before the update,
    and so it stays for the steps to come; a warning says so. The update is the same up to rounding,
    but BatchNorm sees the parts, its running statistics also the failed attempt, and cutting a
    batch waits for the device; a loss that draws on the other rows of a batch (pairs, in-batch
    negatives) draws on those of the part. This is the one place that does this.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[nn.Module, BatchT], torch.Tensor],
        optimizers: Optimizers,
        config: TrainingConfig,
        device: torch.device,
        split: Callable[[BatchT, int], list[BatchT]] | None,
    ) -> None:
        """`split(batch, n)` cuts a batch into n parts; None where that is not possible."""
        self._module, self._loss, self._optimizers = module, loss, optimizers
        self._device, self._split = device, split
        self._clip_norm = config.gradient_clip_norm
        self._dtype = dtype_for(config.precision, device)
        self.n_parts = 1

    def __call__(self, batch: BatchT, check: Callable[[torch.Tensor], None]) -> torch.Tensor:
        """Train on `batch` and return its mean loss, a scalar on the device, without waiting.

        `check` sees the loss before the update.
        """
        value = self.gradients(batch)
        check(value)
        self.update()
        self.count()
        return value

    def gradients(self, batch: BatchT) -> torch.Tensor:
        """Leave the gradients of `batch` on the parameters; return its mean loss."""
        while True:
            try:
                return self.gradients_of(batch)
            except RuntimeError as error:
                too_small = len(batch) < 2 * self.n_parts * _FEWEST_ROWS
                if not is_out_of_memory(error) or self._split is None or too_small:
                    raise
            # Outside of `except`, so that the failed attempt's tensors are freed by now.
            self._optimizers.zero_grad()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self.n_parts *= 2
            logger.warning(
                f"out of memory at {2 * len(batch) // self.n_parts:,} rows: from here on a step "
                f"adds up {self.n_parts} parts of {len(batch) // self.n_parts:,} rows "
                "(a smaller batch_size would avoid that)"
            )

    def update(self) -> None:
        """Clip the gradients and take the step, on the device alone."""
        self._optimizers.clip(self._clip_norm)
        self._optimizers.step()

    def count(self) -> None:
        """Do what a step needs on the host."""
        self._optimizers.count_step()

    def gradients_of(self, batch: BatchT) -> torch.Tensor:
        """Like `gradients`, but raising where memory runs out."""
        self._optimizers.zero_grad()
        n_rows, parts = len(batch), [batch]
        if self.n_parts > 1 and self._split is not None:
            # The last batch of an epoch may be too small for as many parts.
            parts = self._split(batch, max(1, min(self.n_parts, n_rows // _FEWEST_ROWS)))
        total = torch.zeros((), device=self._device)
        for part in parts:
            with autocast(self._dtype, self._device):
                value = self._loss(self._module, part)
            if len(parts) > 1:
                value = value * (len(part) / n_rows)
            value.backward()
            total = total + value.detach()
        return total


def autocast(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which matrix products are taken in `dtype`; float32 changes nothing."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    # A step casts each weight once as it is; a cache would only outlive a captured graph.
    return torch.autocast(device.type, dtype=dtype, cache_enabled=device.type != "cuda")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch could not allocate; on the CPU its error has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class LossMeter:
    """Mean loss of a part of an epoch, and a watch for losses that are not finite.

    On the CPU such a loss stops the run before it harms the weights. Asking another device in
    every step would make the host wait for it: there `mean` finds out.
    """

    def __init__(self, epoch: int, device: torch.device) -> None:
        self._epoch = epoch
        self._on_cpu = device.type == "cpu"
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self._first_bad = torch.full((), torch.iinfo(torch.int64).max, device=device)
        self._step = self._n_rows = 0

    def check(self, loss: torch.Tensor) -> None:
        """Begin a step with its mean loss; on the CPU raises `TrainingDivergedError`."""
        self._step += 1
        if self._on_cpu:
            if not math.isfinite(loss.item()):
                raise self._error(self._step, loss.item())
            return
        bad = torch.where(torch.isfinite(loss), torch.iinfo(torch.int64).max, self._step)
        torch.minimum(self._first_bad, bad, out=self._first_bad)

    def add(self, loss: torch.Tensor, n_rows: int) -> None:
        """Count the mean loss of `n_rows` rows."""
        self._sum += loss.double() * n_rows
        self._n_rows += n_rows

    def mean(self) -> float:
        """Return the mean over rows; raises `TrainingDivergedError` for losses not finite."""
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
