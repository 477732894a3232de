"""What ends a run: epochs, patience, minutes; and how a run follows another one."""

import dataclasses
import math
from collections.abc import Sequence

import pytest

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.run_state import EpochRecord, RunState, TrainingHistory

CONFIG = TrainingConfig(max_epochs=10, patience=3)


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


def run_until_it_ends(config: TrainingConfig, values: Sequence[float]) -> TrainingHistory:
    """Return the history of a run of ten seconds per epoch that found `values`."""
    state = RunState("score", larger_is_better=True)
    for n, value in enumerate(values, start=1):
        if state.ended_by(config):
            break
        state.add(record(n, value))
    return state.finished(config)


def test_a_run_says_what_ended_it() -> None:
    rising = [n / 20 for n in range(10)]
    whole = run_until_it_ends(CONFIG, rising)
    assert (whole.ended_by, whole.stopped_early, len(whole.epochs)) == ("max_epochs", False, 10)
    early = run_until_it_ends(CONFIG, [0.1, 0.5, *[0.3] * 8])
    assert (early.ended_by, early.stopped_early, len(early.epochs)) == ("patience", True, 5)
    assert early.to_mapping()["ended_by"] == "patience"
    # Patience that ends with the last epoch took nothing away.
    last = run_until_it_ends(CONFIG, [*rising[:7], 0.1, 0.1, 0.1])
    assert (last.ended_by, last.stopped_early) == ("max_epochs", False)


def test_the_time_that_is_left_keeps_that_of_a_validation() -> None:
    """Every epoch takes ten seconds, a fifth of them validation."""
    config = dataclasses.replace(CONFIG, max_minutes=0.5)
    state = RunState("score", larger_is_better=True)
    for n, seconds_left in enumerate([30, 18, 8], start=1):
        assert state.seconds_left(config) == pytest.approx(seconds_left)
        assert state.ended_by(config) is None
        state.add(record(n, n / 10))
    assert state.seconds_left(config) == pytest.approx(-2)
    assert state.ended_by(config) == "max_minutes"
    assert state.seconds_left(CONFIG) == math.inf


def test_a_course_that_was_cut_short_has_ended_also_when_resumed() -> None:
    config = dataclasses.replace(CONFIG, max_minutes=60)
    state = RunState("score", larger_is_better=True, is_out_of_time=True)
    state.add(record(0.3, 0.1))
    resumed = RunState("score", larger_is_better=True).restored(state.state())
    assert resumed.ended_by(config) == state.ended_by(config) == "max_minutes"


def test_a_resumed_course_counts_the_time_it_had() -> None:
    config = dataclasses.replace(CONFIG, max_minutes=1)
    state = RunState("score", larger_is_better=True)
    for n in (1, 2, 3):
        state.add(record(n, n / 10, seconds=20))
    resumed = RunState("score", larger_is_better=True).restored(state.state())
    assert resumed.ended_by(config) == state.ended_by(config) == "max_minutes"


def test_a_run_that_follows_another_heeds_its_validations_and_ends_at_its_best() -> None:
    values = [0.1, 0.2, 0.15, 0.4, 0.3, 0.3]
    followed = RunState("score", larger_is_better=True)
    for n, value in enumerate(values, start=1):
        followed.add(record(n / 2, value))
    selection = followed.finished(CONFIG)
    assert selection.best_epoch == 2.0

    config = dataclasses.replace(CONFIG, max_minutes=1e-6, patience=1)
    state = RunState("score", larger_is_better=True, follows=selection)
    heeded = []
    # The part that ended after half an epoch is missing here, as it may be with few batches.
    for epoch in (1.0, 1.5, 2.0):
        assert state.ended_by(config) is None
        assert state.add(dataclasses.replace(record(epoch, 0.0), metrics={}))
        heeded.append([r.metrics["score"] for r in state.deciding()])
    assert heeded == [[0.1, 0.2], [0.15], [0.4]]
    assert state.ended_by(config) == "selection"
    history = state.finished(config)
    assert (history.best_index, history.best_epoch) == (2, 2.0)
