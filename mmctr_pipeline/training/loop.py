"""The training loop: epochs, validation, early stopping, best weights, checkpoints."""

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic

import torch
from torch import nn

from mmctr_pipeline.data.progress import Progress
from mmctr_pipeline.memory import keep_freed_memory
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.cuda_graph import GraphedStep
from mmctr_pipeline.training.device import derived_seed, set_seed
from mmctr_pipeline.training.history import Course, EpochRecord, TrainingHistory
from mmctr_pipeline.training.optimizers.build import Optimizers, build_optimizers
from mmctr_pipeline.training.schedules import Schedule
from mmctr_pipeline.training.step import B, LossMeter, Step, TrainingDivergedError, TrainStep


@dataclasses.dataclass(frozen=True)
class TrainBatches(Generic[B]):
    """Where batches come from: `epoch(n)` yields those of epoch n, from 1; `n_rows` rows in all.

    `split(batch, n)` cuts a batch into n of nearly equal size, which is what a step does where
    memory runs out; None where the loss does not allow it.
    """

    n_rows: int
    epoch: Callable[[int], Iterator[B]]
    split: Callable[[B, int], list[B]] | None = None


@dataclasses.dataclass(frozen=True)
class Validation:
    """What decides which weights are best: `evaluate` returns metrics, among them `metric`."""

    evaluate: Callable[[nn.Module], Mapping[str, float]]
    metric: str
    larger_is_better: bool = True


def fit(
    module: nn.Module,
    parameter_groups: Mapping[str, Sequence[nn.Parameter]],
    batches: TrainBatches[B],
    loss: Callable[[nn.Module, B], torch.Tensor],
    validation: Validation,
    config: TrainingConfig,
    log: Callable[[str], None],
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
    train_step = TrainStep(module, loss, optimizers, config, device, batches.split, log)
    use_graph = config.cuda_graph and device.type == "cuda"
    step: Step[B] = GraphedStep(train_step, device) if use_graph else train_step
    course = Course(validation.metric, validation.larger_is_better)
    run = _Run(module, optimizers, schedule, train_step, course)

    try:
        if checkpoints and (state := checkpoints.load(device, log)):
            run.restore(state)
        for epoch, part, batches_of_part in _parts(batches, config, run.course.n_epochs):
            # Fractions of an epoch add up to whole ones but for rounding.
            if run.course.epochs_since_best > config.patience - 1e-6:
                break
            learning_rate = optimizers.learning_rate
            progress = Progress(
                log,
                f"epoch {epoch} of {config.max_epochs}",
                batches.n_rows // config.validations_per_epoch,
            )
            set_seed(derived_seed(config.seed, epoch, part), device)
            train_loss = _train(module, step, batches_of_part, epoch, device, progress)
            optimizers.flush()
            seconds, rows_per_second = progress.seconds, progress.per_second

            module.eval()
            with torch.no_grad():
                measured = validation.evaluate(module)
            metrics = {name: float(value) for name, value in measured.items()}
            record = EpochRecord(
                epoch=epoch - 1 + part / config.validations_per_epoch,
                train_loss=train_loss,
                metrics=metrics,
                learning_rate=learning_rate,
                seconds=seconds,
                validation_seconds=progress.seconds - seconds,
                rows_per_second=rows_per_second,
            )
            if not math.isfinite(value := metrics[validation.metric]):
                raise TrainingDivergedError(
                    f"epoch {record.epoch:g}: {validation.metric} is {value}"
                )
            run.add(record)
            log(_line(record, config.max_epochs, run.course.is_best))
            schedule.after_validation(value, part == config.validations_per_epoch)
            if checkpoints:
                checkpoints.save(run.state)
    finally:
        optimizers.release()
        module.eval()
        if run.best_weights:
            module.load_state_dict(run.best_weights)
    return run.course.finished(config.max_epochs)


def _train(
    module: nn.Module,
    step: Step[B],
    batches: Iterable[B],
    epoch: int,
    device: torch.device,
    progress: Progress,
) -> float:
    """Take a step on each batch and return the mean loss over their rows."""
    module.train()
    meter = LossMeter(epoch, device)
    for batch in batches:
        meter.add(step(batch, meter.check), len(batch))
        progress.advance(len(batch))
    return meter.mean()


@dataclasses.dataclass
class _Run:
    """Everything that changes in a run, as a checkpoint keeps it."""

    module: nn.Module
    optimizers: Optimizers
    schedule: Schedule
    step: TrainStep[Any]
    course: Course
    best_weights: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def add(self, record: EpochRecord) -> None:
        if self.course.add(record):
            self.best_weights = _copy_of_weights(self.module)

    def state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "schedule": self.schedule.state_dict(),
            "n_parts": self.step.n_parts,
            "course": self.course.state(),
            "best_weights": {} if self.course.is_best else self.best_weights,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.schedule.load_state_dict(state["schedule"])
        self.step.n_parts = state["n_parts"]
        self.course = self.course.restored(state["course"])
        self.best_weights = state["best_weights"] or _copy_of_weights(self.module)


def _parts(
    batches: TrainBatches[B], config: TrainingConfig, n_epochs_done: float
) -> Iterator[tuple[int, int, Iterator[B]]]:
    """Yield epoch and part of it, both from 1, with the part's batches, but for what is done."""
    n_parts = config.validations_per_epoch
    n_done = round(n_epochs_done * n_parts)
    for epoch in range(1 + n_done // n_parts, config.max_epochs + 1):
        numbered = _numbered(batches.epoch(epoch), batches.n_rows, n_parts)
        for part, of_part in itertools.groupby(numbered, operator.itemgetter(0)):
            if (epoch - 1) * n_parts + part > n_done:
                yield epoch, part, (batch for _, batch in of_part)


def _numbered(batches: Iterable[B], n_rows: int, n_parts: int) -> Iterator[tuple[int, B]]:
    """Yield each batch with the part, from 1, that its last row belongs to."""
    end = 0
    for batch in batches:
        end += len(batch)
        yield min(-(-end * n_parts // n_rows), n_parts), batch


def _copy_of_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _line(record: EpochRecord, max_epochs: int, is_best: bool) -> str:
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in record.metrics.items())
    return (
        f"epoch {record.epoch:g} of {max_epochs}: train loss {record.train_loss:.4f}, {metrics}"
        f"{' (best)' if is_best else ''}, learning rate {record.learning_rate:.2g}, "
        f"{record.seconds:.1f} s at {record.rows_per_second:,.0f} rows/s"
    )
