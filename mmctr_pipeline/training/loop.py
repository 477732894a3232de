"""The training loop: epochs, validation, early stopping, best weights, checkpoints."""

import dataclasses
import itertools
import logging
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from mmctr_pipeline.training.optimizers.build import Optimizers, build_optimizers
from mmctr_pipeline.training.run_state import EpochRecord, RunState, TrainingHistory
from mmctr_pipeline.training.schedules import Schedule
from mmctr_pipeline.training.step import BatchT, LossMeter, Step, TrainingDivergedError, TrainStep

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainBatches(Generic[BatchT]):
    """Where batches come from: `epoch(n)` yields those of epoch n, from 1; `n_rows` rows in all.

    `split(batch, n)` cuts a batch into n of nearly equal size, which is what a step does where
    memory runs out; None where a part of a batch is nothing to train on.
    """

    n_rows: int
    epoch: Callable[[int], Iterator[BatchT]]
    split: Callable[[BatchT, int], list[BatchT]] | None = None


@dataclasses.dataclass(frozen=True)
class Validation:
    """What decides which weights are best: `evaluate` returns metrics, among them `metric`.

    With `follows`, the history of another run, nothing is evaluated: that run has decided on the
    number of epochs, which is its best, and on the learning rates; the weights at the end stay. Of
    an epoch that a limit of time cut short, all that a validation would have ended is trained.
    """

    evaluate: Callable[[nn.Module], Mapping[str, float]]
    metric: str
    larger_is_better: bool = True
    follows: TrainingHistory | None = None


def fit(
    module: nn.Module,
    parameter_groups: Mapping[str, Sequence[nn.Parameter]],
    batches: TrainBatches[BatchT],
    loss: Callable[[nn.Module, BatchT], torch.Tensor],
    validation: Validation,
    config: TrainingConfig,
    checkpoints: Checkpoints | None = None,
) -> TrainingHistory:
    """Train `module` in place and leave it in evaluation mode with the weights of its best epoch.

    `loss` returns the mean over a batch's rows, as a scalar. Batch order and dropout follow from
    the seed and the epoch, so that a run that goes on from `checkpoints` ends with the weights of
    one that was never interrupted, bit by bit on the CPU. torch's global random state is reseeded.
    Raises `TrainingDivergedError` where the loss, or the metric that decides, is not finite; the
    module then holds its best weights so far, and the last checkpoint stays.
    """
    keep_freed_memory()
    device = next(module.parameters()).device
    optimizers = build_optimizers(module, parameter_groups, config)
    schedule = Schedule(optimizers.members, config, validation.larger_is_better)
    train_step = TrainStep(module, loss, optimizers, config, device, batches.split)
    use_graph = config.cuda_graph and device.type == "cuda"
    step: Step[BatchT] = GraphedStep(train_step, device) if use_graph else train_step
    run_state = RunState(validation.metric, validation.larger_is_better, validation.follows)
    n_epochs = validation.follows.best_epoch if validation.follows else config.max_epochs
    which = "final fit: " if validation.follows else "selection: " if config.final_fit else ""
    average = WeightAverage(module, config.weight_averaging, batches.n_rows, optimizers.flush)
    run = _Run(module, optimizers, schedule, train_step, run_state, average)

    try:
        if checkpoints and (state := checkpoints.load(device)):
            run.restore(state)
        for epoch, part, batches_of_part in _parts(batches, config, run.run_state.n_epochs):
            if run.run_state.ended_by(config):
                break
            learning_rate = optimizers.learning_rate
            progress = Progress(
                logger,
                f"{which}epoch {epoch} of {n_epochs:g}",
                batches.n_rows // config.validations_per_epoch,
            )
            set_seed(derived_seed(config.seed, epoch, part), device)
            seconds_left = run.run_state.seconds_left(config)
            in_time = _in_time(batches_of_part, progress, seconds_left)
            train_loss = _train(module, step, average, in_time, epoch, device, progress)
            optimizers.flush()
            seconds, rows_per_second = progress.seconds, progress.per_second

            n_epochs_done = epoch - 1 + part / config.validations_per_epoch
            if seconds > seconds_left:
                run.run_state.is_out_of_time = True
                n_epochs_of_rows = run.run_state.n_epochs + progress.done / batches.n_rows
                n_epochs_done = min(n_epochs_done, n_epochs_of_rows)
            with average.applied():
                metrics = _validated(module, validation, n_epochs_done)
                record = EpochRecord(
                    epoch=n_epochs_done,
                    train_loss=train_loss,
                    metrics=metrics,
                    learning_rate=learning_rate,
                    seconds=seconds,
                    validation_seconds=progress.seconds - seconds,
                    rows_per_second=rows_per_second,
                )
                run.add(record)
            logger.info(which + _line(record, n_epochs, run.run_state.is_best))
            for deciding in run.run_state.deciding():
                schedule.after_validation(deciding.metrics[validation.metric], deciding.ends_epoch)
            if checkpoints:
                checkpoints.save(run.state)
    finally:
        optimizers.release()
        module.eval()
        if run.best_weights:
            module.load_state_dict(run.best_weights)
    return run.run_state.finished(config)


def _in_time(batches: Iterable[BatchT], progress: Progress, seconds: float) -> Iterator[BatchT]:
    """Yield batches, the first of them in any case, until so many seconds have passed."""
    for batch in batches:
        yield batch
        if progress.seconds > seconds:
            return


def _train(
    module: nn.Module,
    step: Step[BatchT],
    average: WeightAverage,
    batches: Iterable[BatchT],
    epoch: int,
    device: torch.device,
    progress: Progress,
) -> float:
    """Take a step on each batch and return the mean loss over their rows."""
    module.train()
    meter = LossMeter(epoch, device)
    for batch in batches:
        meter.add(step(batch, meter.check), len(batch))
        average.advance(len(batch))
        progress.advance(len(batch))
    return meter.mean()


def _validated(module: nn.Module, validation: Validation, n_epochs: float) -> dict[str, float]:
    """Return the metrics after `n_epochs`; none where another run has decided already."""
    if validation.follows:
        return {}
    module.eval()
    with torch.no_grad():
        metrics = {name: float(value) for name, value in validation.evaluate(module).items()}
    if not math.isfinite(value := metrics[validation.metric]):
        raise TrainingDivergedError(f"epoch {n_epochs:g}: {validation.metric} is {value}")
    return metrics


@dataclasses.dataclass
class _Run:
    """Everything that changes in a run, as a checkpoint keeps it."""

    module: nn.Module
    optimizers: Optimizers
    schedule: Schedule
    step: TrainStep[Any]
    run_state: RunState
    average: WeightAverage
    best_weights: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def add(self, record: EpochRecord) -> None:
        if self.run_state.add(record):
            self.best_weights = _copy_of_weights(self.module)

    def state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "schedule": self.schedule.state_dict(),
            "n_parts": self.step.n_parts,
            "run_state": self.run_state.state(),
            "average": self.average.state_dict(),
            "best_weights": {} if self.run_state.is_best else self.best_weights,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.schedule.load_state_dict(state["schedule"])
        self.step.n_parts = state["n_parts"]
        self.run_state = self.run_state.restored(state["run_state"])
        self.average.load_state_dict(state["average"])
        with self.average.applied():
            self.best_weights = state["best_weights"] or _copy_of_weights(self.module)


def _parts(
    batches: TrainBatches[BatchT], config: TrainingConfig, n_epochs_done: float
) -> Iterator[tuple[int, int, Iterator[BatchT]]]:
    """Yield epoch and part of it, both from 1, with the part's batches, but for what is done."""
    n_parts = config.validations_per_epoch
    n_done = round(n_epochs_done * n_parts)
    for epoch in range(1 + n_done // n_parts, config.max_epochs + 1):
        numbered = _numbered(batches.epoch(epoch), batches.n_rows, n_parts)
        for part, of_part in itertools.groupby(numbered, operator.itemgetter(0)):
            if (epoch - 1) * n_parts + part > n_done:
                yield epoch, part, (batch for _, batch in of_part)


def _numbered(batches: Iterable[BatchT], n_rows: int, n_parts: int) -> Iterator[tuple[int, BatchT]]:
    """Yield each batch with the part, from 1, that its last row belongs to."""
    end = 0
    for batch in batches:
        end += len(batch)
        yield min(-(-end * n_parts // n_rows), n_parts), batch


def _copy_of_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _line(record: EpochRecord, n_epochs: float, is_best: bool) -> str:
    metrics = "".join(f", {name} {value:.4f}" for name, value in record.metrics.items())
    return (
        f"epoch {record.epoch:g} of {n_epochs:g}: train loss {record.train_loss:.4f}{metrics}"
        f"{' (best)' if metrics and is_best else ''}, learning rate {record.learning_rate:.2g}, "
        f"{record.seconds:.1f} s at {record.rows_per_second:,.0f} rows/s"
    )
