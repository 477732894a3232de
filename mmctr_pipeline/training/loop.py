"""The training loop: epochs, validation, early stopping, best weights."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from mmctr_pipeline.data.progress import Progress
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers import build_optimizer
from mmctr_pipeline.training.schedules import build_schedule


class TrainingDivergedError(RuntimeError):
    """The loss became infinite or NaN; the message names epoch and step."""


B = TypeVar("B", bound=Sized)


@dataclasses.dataclass(frozen=True)
class TrainBatches(Generic[B]):
    """Where batches come from: `epoch(n)` yields those of epoch n, from 1; `n_rows` rows in all."""

    n_rows: int
    epoch: Callable[[int], Iterator[B]]


@dataclasses.dataclass(frozen=True)
class Validation:
    """What decides which epoch is best: `evaluate` returns metrics, among them `metric`."""

    evaluate: Callable[[nn.Module], Mapping[str, float]]
    metric: str
    larger_is_better: bool = True


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """One epoch: mean train loss, validation metrics, rate of the first group, speed of training.

    `seconds` is the time of training, `validation_seconds` that of validation.
    """

    epoch: int
    train_loss: float
    metrics: Mapping[str, float]
    learning_rate: float
    seconds: float
    validation_seconds: float
    rows_per_second: float


@dataclasses.dataclass(frozen=True)
class TrainingHistory:
    """All epochs that ran, and the one whose weights the module holds."""

    epochs: tuple[EpochRecord, ...]
    metric: str
    best_epoch: int
    stopped_early: bool

    @property
    def best(self) -> EpochRecord:
        """The record of the best epoch."""
        return self.epochs[self.best_epoch - 1]

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars."""
        return {
            "epochs": [
                {**dataclasses.asdict(record), "metrics": dict(record.metrics)}
                for record in self.epochs
            ],
            "metric": self.metric,
            "best_epoch": self.best_epoch,
            "stopped_early": self.stopped_early,
        }


def fit(
    module: nn.Module,
    parameter_groups: Mapping[str, list[nn.Parameter]],
    batches: TrainBatches[B],
    loss: Callable[[nn.Module, B], torch.Tensor],
    validation: Validation,
    config: TrainingConfig,
    log: Callable[[str], None],
) -> TrainingHistory:
    """Train `module` in place and leave it in evaluation mode with the weights of its best epoch.

    `loss` returns the mean over a batch's rows, as a scalar. Dropout draws from torch's global
    random state, which the caller seeds. Raises `TrainingDivergedError` where the loss, or the
    metric that decides, is not finite.
    """
    optimizer = build_optimizer(parameter_groups, config)
    schedule = build_schedule(optimizer, config)
    records: list[EpochRecord] = []
    best_value, best_epoch, best_weights = -math.inf, 0, module.state_dict()

    for epoch in range(1, config.max_epochs + 1):
        learning_rate = float(optimizer.param_groups[0]["lr"])
        progress = Progress(log, f"epoch {epoch} of {config.max_epochs}", batches.n_rows)
        train_loss = _train_epoch(module, optimizer, batches, loss, epoch, config, progress)
        seconds, rows_per_second = progress.seconds, progress.per_second
        schedule.step()

        module.eval()
        with torch.no_grad():
            metrics = dict(validation.evaluate(module))
        value = metrics[validation.metric]
        if not math.isfinite(value):
            raise TrainingDivergedError(f"epoch {epoch}: {validation.metric} is {value}")
        record = EpochRecord(
            epoch=epoch,
            train_loss=train_loss,
            metrics=metrics,
            learning_rate=learning_rate,
            seconds=seconds,
            validation_seconds=progress.seconds - seconds,
            rows_per_second=rows_per_second,
        )
        records.append(record)

        signed_value = value if validation.larger_is_better else -value
        if signed_value > best_value:
            best_value, best_epoch, best_weights = signed_value, epoch, _copy_of_weights(module)
        log(_line(record, config.max_epochs, is_best=best_epoch == epoch))
        if epoch - best_epoch >= config.patience:
            break

    module.load_state_dict(best_weights)
    return TrainingHistory(
        epochs=tuple(records),
        metric=validation.metric,
        best_epoch=best_epoch,
        stopped_early=len(records) < config.max_epochs,
    )


def _train_epoch(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: TrainBatches[B],
    loss: Callable[[nn.Module, B], torch.Tensor],
    epoch: int,
    config: TrainingConfig,
    progress: Progress,
) -> float:
    """Run one epoch of steps and return the mean loss over its rows."""
    module.train()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    loss_sum, n_rows = 0.0, 0
    for step, batch in enumerate(batches.epoch(epoch), start=1):
        optimizer.zero_grad()
        batch_loss = loss(module, batch)
        # Before the step, so that weights which were good stay good.
        if not math.isfinite(value := batch_loss.item()):
            raise TrainingDivergedError(
                f"epoch {epoch}, step {step}: the loss is {value}; "
                "lower the learning rate, or look for extreme values in the item vectors"
            )
        batch_loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.gradient_clip_norm)
        optimizer.step()
        loss_sum += value * len(batch)
        n_rows += len(batch)
        progress.advance(len(batch))
    return loss_sum / n_rows


def _copy_of_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _line(record: EpochRecord, max_epochs: int, is_best: bool) -> str:
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in record.metrics.items())
    return (
        f"epoch {record.epoch} of {max_epochs}: train loss {record.train_loss:.4f}, {metrics}"
        f"{' (best)' if is_best else ''}, learning rate {record.learning_rate:.2g}, "
        f"{record.seconds:.1f} s at {record.rows_per_second:,.0f} rows/s"
    )
