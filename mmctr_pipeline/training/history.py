"""What a training run measured, validation by validation."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self


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


@dataclasses.dataclass(frozen=True)
class TrainingHistory:
    """All validations in order; the module holds the weights of the one at `best_index`."""

    epochs: tuple[EpochRecord, ...]
    metric: str
    best_index: int
    stopped_early: bool

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
        }


@dataclasses.dataclass
class Course:
    """How far a run has come, and which validation was best so far."""

    metric: str
    larger_is_better: bool
    records: list[EpochRecord] = dataclasses.field(default_factory=list)
    best_index: int = -1

    def add(self, record: EpochRecord) -> bool:
        """Add a validation; return whether it is the best so far."""
        self.records.append(record)
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

    def finished(self, max_epochs: int) -> TrainingHistory:
        """Return the history of the run, which could have had `max_epochs`."""
        stopped_early = self.n_epochs < max_epochs
        return TrainingHistory(tuple(self.records), self.metric, self.best_index, stopped_early)

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        records = [{**dataclasses.asdict(r), "metrics": dict(r.metrics)} for r in self.records]
        return {"records": records, "best_index": self.best_index}

    def restored(self, state: Mapping[str, Any]) -> Self:
        """Return this course as `state` tells it."""
        records = [EpochRecord(**record) for record in state["records"]]
        return dataclasses.replace(self, records=records, best_index=state["best_index"])
