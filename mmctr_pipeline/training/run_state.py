"""What a training run measured, validation by validation."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

from mmctr_pipeline.training.config import TrainingConfig

_ROUNDING = 1e-6
"""Fractions of an epoch add up to whole ones but for this."""


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """What one validation found, and the training since the one before.

    `epoch` counts the epochs trained so far (2.5 in the middle of the third); `train_loss` is the
    mean over rows, `learning_rate` the rate of the first group, `seconds` the time of training and
    `validation_seconds` that of validation.
    """

    epoch: float
    train_loss: float
    metrics: Mapping[str, float]
    learning_rate: float
    seconds: float
    validation_seconds: float
    rows_per_second: float

    @property
    def ends_epoch(self) -> bool:
        """Whether an epoch ended with this validation."""
        return self.epoch == int(self.epoch)

    @property
    def all_seconds(self) -> float:
        """Time of training and validation."""
        return self.seconds + self.validation_seconds


@dataclasses.dataclass(frozen=True)
class TrainingHistory:
    """All validations in order; the module holds the weights of the one at `best_index`.

    `ended_by` is what ended the run: `max_epochs`, `patience`, `max_minutes`, or `selection` where
    it followed another run up to the best epoch of that.
    """

    epochs: tuple[EpochRecord, ...]
    metric: str
    best_index: int
    ended_by: str

    @property
    def stopped_early(self) -> bool:
        """Whether the run had fewer epochs than it could have had."""
        return self.ended_by != "max_epochs"

    @property
    def best(self) -> EpochRecord:
        """The record of the best validation."""
        return self.epochs[self.best_index]

    @property
    def best_epoch(self) -> float:
        """Epochs after which the weights were best."""
        return self.best.epoch

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
            "ended_by": self.ended_by,
        }


@dataclasses.dataclass
class RunState:
    """How far a run has come, and which validation was best so far.

    A run that follows another one validates nothing: its last record counts as its best.
    """

    metric: str
    larger_is_better: bool
    follows: TrainingHistory | None = None
    records: list[EpochRecord] = dataclasses.field(default_factory=list)
    best_index: int = -1
    is_out_of_time: bool = False

    def add(self, record: EpochRecord) -> bool:
        """Add a validation; return whether it is the best so far."""
        self.records.append(record)
        if self.follows:
            self.best_index = len(self.records) - 1
            return True
        sign = 1 if self.larger_is_better else -1
        value = record.metrics[self.metric]
        if self.best_index >= 0 and sign * value <= sign * self.best_value:
            return False
        self.best_index = len(self.records) - 1
        return True

    @property
    def best_value(self) -> float:
        """The deciding metric of the best validation."""
        return self.records[self.best_index].metrics[self.metric]

    @property
    def epochs_since_best(self) -> float:
        """Epochs trained since the best validation."""
        return self.n_epochs - self.records[self.best_index].epoch if self.records else 0.0

    @property
    def is_best(self) -> bool:
        """Whether the last validation is the best so far."""
        return self.best_index == len(self.records) - 1

    @property
    def n_epochs(self) -> float:
        """Epochs trained so far."""
        return self.records[-1].epoch if self.records else 0.0

    def deciding(self) -> list[EpochRecord]:
        """Return the validations that the learning rate heeds now: the last one.

        In a run that follows another one these are that one's, as far as the last record reaches.
        """
        if self.follows is None:
            return self.records[-1:]
        before = self.records[-2].epoch if len(self.records) > 1 else 0.0
        return [r for r in self.follows.epochs if before < r.epoch <= self.n_epochs]

    def ended_by(self, config: TrainingConfig) -> str | None:
        """Return what ends the run here (see `TrainingHistory`); None where it is to go on."""
        if not self.records:
            return None
        if self.follows:
            return "selection" if self.n_epochs > self.follows.best_epoch - _ROUNDING else None
        if self.n_epochs > config.max_epochs - _ROUNDING:
            return "max_epochs"
        if self.epochs_since_best > config.patience - _ROUNDING:
            return "patience"
        return "max_minutes" if self.is_out_of_time or self.seconds_left(config) <= 0 else None

    def seconds_left(self, config: TrainingConfig) -> float:
        """Return how long training may go on, so that one more validation is over in time.

        It is expected to take as long as the last one. A run that follows another has no limit.
        """
        if config.max_minutes == 0 or self.follows:
            return math.inf
        validation = self.records[-1].validation_seconds if self.records else 0.0
        seconds = sum(record.all_seconds for record in self.records)
        return 60 * config.max_minutes - seconds - validation

    def finished(self, config: TrainingConfig) -> TrainingHistory:
        """Return the history of the run, all epochs of which are over."""
        ended_by = self.ended_by(config) or "max_epochs"
        return TrainingHistory(tuple(self.records), self.metric, self.best_index, ended_by)

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        records = [{**dataclasses.asdict(r), "metrics": dict(r.metrics)} for r in self.records]
        return {
            "records": records,
            "best_index": self.best_index,
            "is_out_of_time": self.is_out_of_time,
        }

    def restored(self, state: Mapping[str, Any]) -> Self:
        """Return this state as `state` tells it."""
        records = [EpochRecord(**record) for record in state["records"]]
        return dataclasses.replace(
            self,
            records=records,
            best_index=state["best_index"],
            is_out_of_time=state["is_out_of_time"],
        )
