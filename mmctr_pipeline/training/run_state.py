"""Measurements and progress of a training run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """One validation, and the training since the previous one.

    `epoch` is the number of epochs trained so far (2.5 halfway through the third). `train_loss` is
    the mean over rows, `learning_rate` the rate of the first group, `seconds` the training time and
    `validation_seconds` the validation time. `gradient_norm` and `largest_gradient_norm` are the
    mean and the maximum over the steps, before clipping; None in old files.
    """

    epoch: float
    train_loss: float
    metrics: Mapping[str, float]
    learning_rate: float
    seconds: float
    validation_seconds: float
    rows_per_second: float
    gradient_norm: float | None = None
    largest_gradient_norm: float | None = None

    @property
    def ends_epoch(self) -> bool:
        """True if this validation came at the end of an epoch."""
        return self.epoch == int(self.epoch)

    @property
    def all_seconds(self) -> float:
        """Time of training and validation."""
        return self.seconds + self.validation_seconds


@dataclasses.dataclass(frozen=True)
class TrainingHistory:
    """All validations in order; the module holds the weights of validation `best_index`.

    `ended_by` says why the run ended: `max_epochs`, `patience`, `max_minutes`, or `selection` if it
    repeated another run up to that run's best epoch.
    """

    epochs: tuple[EpochRecord, ...]
    metric: str
    best_index: int
    ended_by: str

    @property
    def stopped_early(self) -> bool:
        """True if the run ended before its last epoch."""
        return self.ended_by != "max_epochs"

    @property
    def best(self) -> EpochRecord:
        """The record of the best validation."""
        return self.epochs[self.best_index]

    @property
    def best_epoch(self) -> float:
        """Number of epochs after which the weights were best."""
        return self.best.epoch

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars."""
        return {
            "epochs": [dataclasses.asdict(record) for record in self.epochs],
            "metric": self.metric,
            "best_epoch": self.best_epoch,
            "stopped_early": self.stopped_early,
            "ended_by": self.ended_by,
        }


@dataclasses.dataclass
class RunState:
    """Progress of a run: its validations, and the best weights so far."""

    records: list[EpochRecord] = dataclasses.field(default_factory=list)
    best_index: int = -1
    is_out_of_time: bool = False
    best_weights: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    @property
    def n_epochs(self) -> float:
        """Epochs trained so far."""
        return self.records[-1].epoch if self.records else 0.0

    @property
    def best(self) -> EpochRecord | None:
        """The best validation so far."""
        return self.records[self.best_index] if self.records else None

    @property
    def is_best(self) -> bool:
        """True if the last validation is the best so far."""
        return self.best_index == len(self.records) - 1

    def add(self, record: EpochRecord, is_best: bool, module: nn.Module) -> None:
        """Append a validation of `module`, and copy its weights if they are the best so far."""
        self.records.append(record)
        if is_best:
            self.best_index = len(self.records) - 1
            self.copy_weights(module)

    def copy_weights(self, module: nn.Module) -> None:
        """Copy the best weights from `module`."""
        self.best_weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, without best weights if the last ones are the best."""
        records = [dataclasses.asdict(record) for record in self.records]
        weights = {} if self.is_best else self.best_weights
        return {**vars(self), "records": records, "best_weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        vars(self).update(state)
        self.records = [EpochRecord(**record) for record in state["records"]]
