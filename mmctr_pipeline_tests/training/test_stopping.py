"""Stopping policies decide when a run ends and which weights are best."""

import dataclasses
import math
from collections.abc import Sequence

import pytest
from torch import nn

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.run_state import EpochRecord, RunState, TrainingHistory
from mmctr_pipeline.training.stopping import EarlyStopping, FollowSelection, StoppingPolicy

CONFIG = TrainingConfig(max_epochs=10, patience=3)
MODULE = nn.Linear(1, 1)


def early_stopping(config: TrainingConfig = CONFIG) -> EarlyStopping:
    return EarlyStopping(lambda module: {}, "score", config)


def record(epoch: float, value: float, seconds: float = 10.0) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        train_loss=0.6,
        metrics={"score": value},
        learning_rate=1e-3,
        seconds=0.8 * seconds,
        validation_seconds=0.2 * seconds,
        rows_per_second=100.0,
    )


def add(state: RunState, stopping: StoppingPolicy, new: EpochRecord) -> None:
    state.add(new, stopping.is_better(new, state.best), MODULE)


def run_to_its_end(values: Sequence[float], epoch_length: float = 1.0) -> TrainingHistory:
    """Return the history of a run whose validations return `values`."""
    state, stopping = RunState(), early_stopping()
    for n, value in enumerate(values, start=1):
        if stopping.ended_by(state):
            break
        add(state, stopping, record(n * epoch_length, value))
    ended_by = stopping.ended_by(state) or "max_epochs"
    return TrainingHistory(tuple(state.records), "score", state.best_index, ended_by)


def test_a_run_records_what_ended_it() -> None:
    rising = [n / 20 for n in range(10)]
    whole = run_to_its_end(rising)
    assert (whole.ended_by, whole.stopped_early, len(whole.epochs)) == ("max_epochs", False, 10)
    early = run_to_its_end([0.1, 0.5, *[0.3] * 8])
    assert (early.ended_by, early.stopped_early, len(early.epochs)) == ("patience", True, 5)
    assert early.to_mapping()["ended_by"] == "patience"
    # Running out of patience in the last epoch shortens nothing.
    last = run_to_its_end([*rising[:7], 0.1, 0.1, 0.1])
    assert (last.ended_by, last.stopped_early) == ("max_epochs", False)


@pytest.mark.parametrize(("larger_is_better", "value", "expected"), [(True, 2, 1), (False, 1, 0)])
def test_the_best_record_follows_the_direction_and_ties_go_to_the_first(
    larger_is_better: bool, value: float, expected: int
) -> None:
    stopping = EarlyStopping(lambda module: {}, "score", CONFIG, larger_is_better)
    state = RunState()
    for n, found in enumerate([1.0, 2.0, value], start=1):
        add(state, stopping, record(n, found))
    assert state.best_index == expected


def test_the_time_limit_leaves_time_for_a_validation() -> None:
    """Each epoch takes ten seconds, including two of validation."""
    stopping = early_stopping(dataclasses.replace(CONFIG, max_minutes=0.5))
    state = RunState()
    for n, seconds_left in enumerate([30, 18, 8], start=1):
        assert stopping.seconds_left(state) == pytest.approx(seconds_left)
        assert stopping.ended_by(state) is None
        add(state, stopping, record(n, n / 10))
    assert stopping.seconds_left(state) == pytest.approx(-2)
    assert stopping.ended_by(state) == "max_minutes"
    assert early_stopping().seconds_left(state) == math.inf


@pytest.mark.parametrize(
    ("max_minutes", "epochs", "seconds", "is_out_of_time"),
    [
        pytest.param(60, [0.3], 10, True, id="a run that was cut short has ended"),
        pytest.param(1, [1, 2, 3], 20, False, id="the time spent before counts"),
    ],
)
def test_a_resumed_run_is_still_out_of_time(
    max_minutes: float, epochs: list[float], seconds: float, is_out_of_time: bool
) -> None:
    stopping = early_stopping(dataclasses.replace(CONFIG, max_minutes=max_minutes))
    state = RunState(is_out_of_time=is_out_of_time)
    for epoch in epochs:
        add(state, stopping, record(epoch, epoch / 10, seconds))
    resumed = RunState()
    resumed.load_state_dict(state.state_dict())
    assert resumed.records == state.records
    assert stopping.ended_by(resumed) == stopping.ended_by(state) == "max_minutes"


def test_a_final_fit_uses_the_validations_of_selection_and_ends_at_its_best_epoch() -> None:
    selection = run_to_its_end([0.1, 0.2, 0.15, 0.4, 0.3, 0.3], epoch_length=0.5)
    assert selection.best_epoch == 2.0

    stopping, state = FollowSelection(selection), RunState()
    scores = []
    # The final fit has no part that ends at epoch 0.5: with few batches, parts may be skipped.
    for epoch in (1.0, 1.5, 2.0):
        assert stopping.ended_by(state) is None
        add(state, stopping, dataclasses.replace(record(epoch, 0.0), metrics={}))
        assert state.is_best
        scores.append([r.metrics["score"] for r in stopping.schedule_records(state)])
    assert scores == [[0.1, 0.2], [0.15], [0.4]]
    assert stopping.ended_by(state) == "selection"
    assert stopping.seconds_left(state) == math.inf
    assert stopping.measure(MODULE, 2.0) == {}
