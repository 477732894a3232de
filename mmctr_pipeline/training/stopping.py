"""Stopping policies decide which weights a training run keeps, and when it ends.

They also decide which validations drive the schedule of the learning rate. A selection run may stop
early; a final fit repeats the selection run before it, up to the best epoch.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.run_state import EpochRecord, RunState, TrainingHistory
from mmctr_pipeline.training.step import TrainingDivergedError

_ROUNDING = 1e-6
"""Tolerance for sums of fractions of an epoch."""


def epoch_label(config: TrainingConfig, epoch: float) -> str:
    """Return the name of `epoch` in log lines; it mentions selection if a final fit follows."""
    prefix = "selection: " if config.final_fit else ""
    return f"{prefix}epoch {epoch:g} of {config.max_epochs}"


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Validates, keeps the best weights, and ends the run as `config` says.

    A run ends after `max_epochs`, after `patience` epochs without better weights, or in time for a
    last validation within `max_minutes`. `evaluate` returns a module's metrics, among them
    `metric`, which decides.
    """

    evaluate: Callable[[nn.Module], Mapping[str, float]]
    metric: str
    config: TrainingConfig
    larger_is_better: bool = True

    def label(self, epoch: float) -> str:
        """Return the name of `epoch` in log lines."""
        return epoch_label(self.config, epoch)

    def measure(self, module: nn.Module, n_epochs: float) -> dict[str, float]:
        """Return the metrics of `module` after `n_epochs` epochs.

        Raises `TrainingDivergedError` if the deciding metric is not finite.
        """
        with torch.no_grad():
            metrics = {name: float(value) for name, value in self.evaluate(module).items()}
        if not math.isfinite(value := metrics[self.metric]):
            raise TrainingDivergedError(f"epoch {n_epochs:g}: {self.metric} is {value}")
        return metrics

    def is_better(self, record: EpochRecord, best: EpochRecord | None) -> bool:
        """Return whether `record` is better than the best one before it; a tie is not better."""
        if best is None:
            return True
        value, best_value = record.metrics[self.metric], best.metrics[self.metric]
        return value > best_value if self.larger_is_better else value < best_value

    def schedule_records(self, state: RunState) -> Sequence[EpochRecord]:
        """Return the validations that drive the learning rate now: the last one."""
        return state.records[-1:]

    def ended_by(self, state: RunState) -> str | None:
        """Return why the run ends now (see `TrainingHistory`), or None if it goes on."""
        if state.best is None:
            return None
        if state.n_epochs > self.config.max_epochs - _ROUNDING:
            return "max_epochs"
        if state.n_epochs - state.best.epoch > self.config.patience - _ROUNDING:
            return "patience"
        is_out_of_time = state.is_out_of_time or self.seconds_left(state) <= 0
        return "max_minutes" if is_out_of_time else None

    def seconds_left(self, state: RunState) -> float:
        """Return the training time left, after which a validation still fits in.

        The validation is expected to take as long as the last one.
        """
        if self.config.max_minutes == 0:
            return math.inf
        validation = state.records[-1].validation_seconds if state.records else 0.0
        seconds = sum(record.all_seconds for record in state.records)
        return 60 * self.config.max_minutes - seconds - validation


@dataclasses.dataclass(frozen=True)
class FollowSelection:
    """Repeats a selection run up to its best epoch, for a final fit on more rows.

    Nothing is validated, and the last weights are kept. The selection run's validations drive the
    learning rate again. There is no time limit. If a time limit ended the selection run within a
    part of an epoch, the whole part is trained here.
    """

    selection: TrainingHistory
    larger_is_better: bool = True

    @property
    def metric(self) -> str:
        """The metric that decided in the selection run."""
        return self.selection.metric

    def label(self, epoch: float) -> str:
        """Return the name of `epoch` in log lines."""
        return f"final fit: epoch {epoch:g} of {self.selection.best_epoch:g}"

    def measure(self, module: nn.Module, n_epochs: float) -> dict[str, float]:
        """Return no metrics."""
        return {}

    def is_better(self, record: EpochRecord, best: EpochRecord | None) -> bool:
        """Return that the last weights are the best."""
        return True

    def schedule_records(self, state: RunState) -> Sequence[EpochRecord]:
        """Return the selection run's validations that fall within the last part of this run."""
        before = state.records[-2].epoch if len(state.records) > 1 else 0.0
        return [
            record for record in self.selection.epochs if before < record.epoch <= state.n_epochs
        ]

    def ended_by(self, state: RunState) -> str | None:
        """Return `selection` once the best epoch is reached."""
        return "selection" if state.n_epochs > self.selection.best_epoch - _ROUNDING else None

    def seconds_left(self, state: RunState) -> float:
        """Return no limit."""
        return math.inf


StoppingPolicy = EarlyStopping | FollowSelection
