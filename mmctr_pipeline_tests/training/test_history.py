"""What ends a run: epochs, patience, minutes; and how a run follows another one."""

import dataclasses
from collections.abc import Sequence

import pytest

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.history import Course, EpochRecord, TrainingHistory

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
    course = Course("score", larger_is_better=True)
    for n, value in enumerate(values, start=1):
        if course.ended_by(config):
            break
        course.add(record(n, value))
    return course.finished(config)


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


@pytest.mark.parametrize(
    ("seconds", "n_epochs"), [(1, 1), (19, 1), (20, 2), (29, 2), (30, 3), (99, 9), (100, 10)]
)
def test_nothing_is_begun_that_would_end_beyond_the_limit(seconds: int, n_epochs: int) -> None:
    """Every epoch takes ten seconds, a fifth of them validation."""
    config = dataclasses.replace(CONFIG, max_minutes=seconds / 60 + 1e-9)
    history = run_until_it_ends(config, [n / 20 for n in range(10)])
    assert len(history.epochs) == n_epochs
    assert history.ended_by == ("max_minutes" if n_epochs < 10 else "max_epochs")


def test_the_last_epoch_tells_how_long_the_next_one_takes() -> None:
    config = dataclasses.replace(CONFIG, max_minutes=1)
    course = Course("score", larger_is_better=True)
    course.add(record(1, 0.1, seconds=35))
    assert course.ended_by(config) == "max_minutes"
    course = Course("score", larger_is_better=True)
    course.add(record(1, 0.1, seconds=25))
    assert course.ended_by(config) is None
    course.add(record(2, 0.2, seconds=5))
    assert course.ended_by(config) is None
    course.add(record(3, 0.3, seconds=20))
    assert course.ended_by(config) == "max_minutes"


def test_a_resumed_course_counts_the_time_it_had() -> None:
    config = dataclasses.replace(CONFIG, max_minutes=1)
    course = Course("score", larger_is_better=True)
    for n in (1, 2, 3):
        course.add(record(n, n / 10, seconds=18))
    resumed = Course("score", larger_is_better=True).restored(course.state())
    assert resumed.ended_by(config) == course.ended_by(config) == "max_minutes"


def test_a_run_that_follows_another_heeds_its_validations_and_ends_at_its_best() -> None:
    values = [0.1, 0.2, 0.15, 0.4, 0.3, 0.3]
    followed = Course("score", larger_is_better=True)
    for n, value in enumerate(values, start=1):
        followed.add(record(n / 2, value))
    selection = followed.finished(CONFIG)
    assert selection.best_epoch == 2.0

    config = dataclasses.replace(CONFIG, max_minutes=1e-6, patience=1)
    course = Course("score", larger_is_better=True, follows=selection)
    heeded = []
    # The part that ended after half an epoch is missing here, as it may be with few batches.
    for epoch in (1.0, 1.5, 2.0):
        assert course.ended_by(config) is None
        assert course.add(dataclasses.replace(record(epoch, 0.0), metrics={}))
        heeded.append([r.metrics["score"] for r in course.deciding()])
    assert heeded == [[0.1, 0.2], [0.15], [0.4]]
    assert course.ended_by(config) == "selection"
    history = course.finished(config)
    assert (history.best_index, history.best_epoch) == (2, 2.0)
