"""The training loop: epochs, validation, best weights, stopping, checkpoints."""

import dataclasses
import itertools
import logging
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic

import torch
from torch import nn

from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.memory import keep_freed_memory
from mmctr_pipeline.training.averaging import WeightAverage
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.cuda_graph import GraphedStep
from mmctr_pipeline.training.device import derived_seed, set_seed
from mmctr_pipeline.training.optimizers.build import Optimizers
from mmctr_pipeline.training.ranks import ALONE, Ranks
from mmctr_pipeline.training.run_state import EpochRecord, RunState, TrainingHistory
from mmctr_pipeline.training.step import BatchT, LossMeter, Step, TrainStep
from mmctr_pipeline.training.stopping import StoppingPolicy

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainBatches(Generic[BatchT]):
    """Source of batches: `epoch(n)` yields the `n_rows` rows of epoch n (from 1) as batches.

    `split(batch, n)` cuts a batch into n parts of nearly equal size, for steps that run out of
    memory; None if a part of a batch cannot be trained on. `ranks` divide each batch: `n_rows`
    counts the rows of all of them, and `epoch` yields this rank's share.
    """

    n_rows: int
    epoch: Callable[[int], Iterator[BatchT]]
    split: Callable[[BatchT, int], list[BatchT]] | None = None
    ranks: Ranks = ALONE

    def size(self, batch: BatchT) -> int:
        """Return the number of rows of a batch over all ranks; their shares are equal."""
        return len(batch) * self.ranks.count


def fit(
    module: nn.Module,
    parameter_groups: Mapping[str, Sequence[nn.Parameter]],
    batches: TrainBatches[BatchT],
    loss: Callable[[nn.Module, BatchT], torch.Tensor],
    stopping: StoppingPolicy,
    config: TrainingConfig,
    checkpoints: Checkpoints | None = None,
) -> TrainingHistory:
    """Train `module` in place and leave it in evaluation mode with its best weights.

    Batch order and dropout follow from the seed and the epoch alone. A run that resumes from
    `checkpoints` therefore ends with the weights of an uninterrupted one, bit by bit on the CPU.
    torch's global random state is reseeded.

    Raises `TrainingDivergedError` if the loss or the deciding metric is not finite. The module then
    holds its best weights so far, and the last checkpoint remains.

    Parameters
    ----------
    module
        Module to train, on its device.
    parameter_groups
        The module's parameters by group; see `Optimizers`.
    batches
        Source of the batches of each epoch.
    loss
        Returns the mean loss over the rows of a batch, a scalar.
    stopping
        Decides which weights are best and when to stop.
    config
        Optimiser, schedule, number format and number of validations.
    checkpoints
        Where to save progress, and to resume from.
    """
    keep_freed_memory()
    device = next(module.parameters()).device
    optimizers = Optimizers(module, parameter_groups, config, stopping.larger_is_better)
    ranks = batches.ranks
    # In parts, or in a captured graph, ranks would exchange their gradients at different times.
    split = batches.split if ranks.count == 1 else None
    train_step = TrainStep(module, loss, optimizers, config, device, split, ranks=ranks)
    use_graph = config.cuda_graph and device.type == "cuda" and ranks.count == 1
    step: Step[BatchT] = GraphedStep(train_step, device) if use_graph else train_step
    average = WeightAverage(module, config.weight_averaging, batches.n_rows)
    state = RunState()
    parts: dict[str, Any] = {
        "module": module,
        "optimizers": optimizers,
        "step": train_step,
        "average": average,
        "state": state,
    }
    n_validations = config.validations_per_epoch

    try:
        if checkpoints and (saved := checkpoints.load(device)):
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            if state.is_best:
                with average.applied():
                    state.copy_weights(module)
        for epoch, number, part_batches in _epoch_parts(batches, config, state.n_epochs):
            if stopping.ended_by(state):
                break
            learning_rate = optimizers.learning_rate
            seconds_left = stopping.seconds_left(state)
            meter = LossMeter(epoch, device)
            train_step.gradient_norms.reset()
            rows_before = batches.n_rows * (number - 1) // n_validations
            progress = Progress(logger, stopping.label(epoch), batches.n_rows, done=rows_before)
            set_seed(derived_seed(config.seed, epoch, number, *ranks.seeds), device)
            module.train()
            for batch in part_batches:
                n_rows = batches.size(batch)
                meter.add(step(batch, meter.check), n_rows)
                average.advance(n_rows)
                progress.advance(n_rows)
                if math.isfinite(seconds_left) and ranks.agreed(progress.seconds > seconds_left):
                    break
            train_loss = meter.mean()
            gradient_norm, largest_gradient_norm = train_step.gradient_norms.summary(meter.n_steps)
            module.eval()  # this brings embedding tables up to date
            seconds, rows_per_second = ranks.agreed((progress.seconds, progress.per_second))

            n_epochs = epoch - 1 + number / n_validations
            if seconds > seconds_left:
                state.is_out_of_time = True
                n_epochs = min(n_epochs, state.n_epochs + progress.count / batches.n_rows)
            with average.applied():
                metrics = stopping.measure(module, n_epochs)
                record = EpochRecord(
                    epoch=n_epochs,
                    train_loss=train_loss,
                    metrics=metrics,
                    learning_rate=learning_rate,
                    seconds=seconds,
                    validation_seconds=ranks.agreed(progress.seconds) - seconds,
                    rows_per_second=rows_per_second,
                    gradient_norm=gradient_norm,
                    largest_gradient_norm=largest_gradient_norm,
                )
                state.add(record, stopping.is_better(record, state.best), module)
            _log(record, stopping.label(n_epochs), state.is_best)
            for validation in stopping.schedule_records(state):
                value = validation.metrics[stopping.metric]
                optimizers.after_validation(value, validation.ends_epoch)
            if checkpoints and ranks.is_first:
                checkpoints.save(lambda: {name: part.state_dict() for name, part in parts.items()})
    finally:
        optimizers.release()
        module.eval()
        if state.best_weights:
            module.load_state_dict(state.best_weights)
    ended_by = stopping.ended_by(state) or "max_epochs"
    return TrainingHistory(tuple(state.records), stopping.metric, state.best_index, ended_by)


def _epoch_parts(
    batches: TrainBatches[BatchT], config: TrainingConfig, n_epochs_done: float
) -> Iterator[tuple[int, int, Iterator[BatchT]]]:
    """Yield the parts that are left: number of the epoch, number of the part in it, and batches.

    Both numbers count from 1. A part ends with a validation. A batch belongs to the part of its
    last row.
    """
    n_parts = config.validations_per_epoch
    n_done = round(n_epochs_done * n_parts)

    def numbered(epoch: int) -> Iterator[tuple[int, BatchT]]:
        end = 0
        for batch in batches.epoch(epoch):
            end += batches.size(batch)
            yield min(-(-end * n_parts // batches.n_rows), n_parts), batch

    for epoch in range(1 + n_done // n_parts, config.max_epochs + 1):
        for part, group in itertools.groupby(numbered(epoch), operator.itemgetter(0)):
            if (epoch - 1) * n_parts + part > n_done:
                yield epoch, part, (batch for _, batch in group)


def _log(record: EpochRecord, label: str, is_best: bool) -> None:
    metrics = "".join(f", {name} {value:.4f}" for name, value in record.metrics.items())
    logger.info(
        f"{label}: train loss {record.train_loss:.4f}{metrics}"
        f"{' (best)' if metrics and is_best else ''}, learning rate {record.learning_rate:.2g}, "
        f"gradient norm {record.gradient_norm:.3g} (largest {record.largest_gradient_norm:.3g}), "
        f"{record.seconds:.1f} s at {record.rows_per_second:,.0f} rows/s"
    )
