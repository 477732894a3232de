"""A failed run has one event with the figures, and errors are printed for the user to correct."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterSubprocessError
from dagster._core.executor.child_process_executor import ChildProcessCrashException
from dagster._utils.error import serializable_error_info_from_exc_info

from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.defs import declare, run_events
from mmctr_pipeline.defs.days import DAY_TAG
from mmctr_pipeline.defs.run_events import error_text, failure_event, notify_of_failure, run_event
from mmctr_pipeline.defs.run_guard import STORAGE_TAG
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.monitoring.notify import notify, read_events
from mmctr_pipeline.registry.contest import NoChampionError
from mmctr_pipeline.reporting.checks import CheckOutcome


@dg.asset
def vectors() -> None:
    """An asset whose checks fail."""


@declare.checks(coverage="images", norms="lengths", drift="levels", not_blocking=("drift",))
def vectors_checks() -> list[CheckOutcome]:
    """Fail."""
    return [
        CheckOutcome("drift", False, "0.3 of the levels moved", {}),
        CheckOutcome("norms", False, "Many are zero. Fix: fill them", {}, figures="0.7335 < 0.75"),
        CheckOutcome("coverage", False, "30.0% have no image (limit 20.0%). Fix: add some", {}),
    ]


@dg.asset
def dataset() -> None:
    """Fail with a fault of the data."""
    raise DataError(Path("train.parquet"), "all labels are 0", "check the export", "label")


@dg.asset
def broken() -> None:
    """Fail with a fault of the code."""
    raise AssertionError("not the user's fault")


def printed_error(*definitions: Any) -> str:
    """Materialise assets, and return the text that is printed for the first failed step."""
    result = dg.materialize(list(definitions), raise_on_error=False)
    failure = result.filter_events(lambda event: event.is_step_failure)[0]
    error = failure.step_failure_data.error
    assert error is not None
    return error_text(error)


@pytest.mark.parametrize(
    ("definitions", "expected"),
    [
        (
            [vectors, vectors_checks],
            "error: 2 blocking asset checks failed with ERROR severity:\nvectors: norms,coverage",
        ),
        ([dataset], "error: train.parquet, column label: all labels are 0. Fix: check the export"),
    ],
)
def test_errors_that_the_user_can_correct_are_shown_without_traceback(
    definitions: list[Any], expected: str
) -> None:
    assert printed_error(*definitions) == expected


def test_a_step_whose_process_was_killed_is_shown_with_advice() -> None:
    try:
        raise ChildProcessCrashException(pid=7, exit_code=-9)
    except ChildProcessCrashException:
        crash = serializable_error_info_from_exc_info(sys.exc_info())
    assert "because memory ran out" in error_text(crash)
    try:
        message = f"During multiprocess execution errors occurred:\n{crash.to_string()}"
        raise DagsterSubprocessError(message, subprocess_error_infos=[crash])
    except DagsterSubprocessError:
        end_of_run = serializable_error_info_from_exc_info(sys.exc_info())
    assert error_text(end_of_run) == "error: the process of a step was lost, see above"


def test_other_errors_are_shown_with_their_traceback() -> None:
    text = printed_error(broken)
    assert "not the user's fault" in text
    assert "Stack Trace" in text


@dg.asset
def rejected() -> None:
    """Fail because a challenger is rejected."""
    raise NoChampionError("no model may be submitted")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def failed_run(instance: dg.DagsterInstance, *definitions: Any, **tags: str) -> dg.DagsterRun:
    """Materialise assets, which fail, and return the run."""
    result = dg.materialize(list(definitions), instance=instance, raise_on_error=False, tags=tags)
    assert not result.success
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return run


@pytest.mark.parametrize(
    ("definitions", "kind", "headline", "detail"),
    [
        (
            [vectors, vectors_checks],
            "night_blocked",
            "norms: 0.7335 < 0.75",
            "vectors: norms: Many are zero. Fix: fill them\n"
            "vectors: coverage: 30.0% have no image (limit 20.0%). Fix: add some",
        ),
        (
            [dataset],
            "run_failed",
            "dataset: train.parquet, column label: all labels are 0. Fix: check the export",
            "error: train.parquet, column label: all labels are 0. Fix: check the export",
        ),
        ([broken], "run_failed", "broken: AssertionError: not the user's fault", "Stack Trace"),
    ],
)
def test_the_first_line_of_an_event_has_the_figures_or_the_first_error(
    definitions: list[Any],
    kind: str,
    headline: str,
    detail: str,
    instance: dg.DagsterInstance,
    tmp_path: Path,
) -> None:
    run = failed_run(instance, *definitions, **{DAY_TAG: "2026-01-02"})
    event = failure_event(instance, run, tmp_path)
    assert event is not None
    assert (event.kind, event.headline) == (kind, headline)
    assert detail in event.detail
    assert (event.run_id, event.day, event.storage) == (run.run_id, "2026-01-02", str(tmp_path))


def test_a_run_without_records_of_its_failure_has_an_event_with_the_reported_reason(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = instance.create_run_for_job(dg.job(name="empty")(lambda: None))
    instance.report_run_failed(run, "The process of this run was lost.")
    event = failure_event(instance, run, tmp_path)
    assert event is not None
    assert (event.kind, event.headline) == ("run_failed", "The process of this run was lost.")


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_events, "current_deployment", lambda: Deployment(None, tmp_path, None))
    return tmp_path


def test_a_run_that_is_reported_twice_has_one_event(
    instance: dg.DagsterInstance, storage: Path
) -> None:
    run = failed_run(instance, vectors, vectors_checks)
    first = notify_of_failure(instance, run)
    assert first is not None
    assert notify_of_failure(instance, run) is None
    assert read_events(storage) == [first]


def test_a_run_on_another_storage_folder_is_left_to_its_own_deployment(
    instance: dg.DagsterInstance, storage: Path
) -> None:
    elsewhere = failed_run(instance, dataset, **{STORAGE_TAG: "/another/storage"})
    assert notify_of_failure(instance, elsewhere) is None
    assert read_events(storage) == []


def test_a_run_that_fails_without_a_champion_has_only_the_event_of_the_rejection(
    instance: dg.DagsterInstance, storage: Path
) -> None:
    run = failed_run(instance, rejected)
    told = run_event("challenger_rejected", "auc_floor: 0.7335 < 0.75", "", run, storage)
    assert failure_event(instance, run, storage) is not None, "nobody has told the reason"
    notify(told)
    assert notify_of_failure(instance, run) is None
    assert read_events(storage) == [told]


def test_the_sensor_of_failed_runs_reports_those_of_the_command_line(
    instance: dg.DagsterInstance, storage: Path
) -> None:
    from mmctr_pipeline.definitions import defs
    from mmctr_pipeline.defs.sensors import failed_runs

    def tick(cursor: str | None) -> str | None:
        context = dg.build_sensor_context(
            instance, cursor=cursor, repository_def=defs.get_repository_def()
        )
        return failed_runs.evaluate_tick(context).cursor

    cursor = tick(None)
    run = failed_run(instance, dataset)
    cursor = tick(cursor)
    assert [event.run_id for event in read_events(storage)] == [run.run_id]
    tick(cursor)
    assert len(read_events(storage)) == 1
