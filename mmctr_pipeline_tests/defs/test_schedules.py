"""The nightly schedule requests a run if data or preset changed and no other run is active."""

import dataclasses
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.remote_origin import RemoteInstigatorOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType

from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.definitions import defs
from mmctr_pipeline.defs import days, run_events, schedules
from mmctr_pipeline.defs.launches import executing
from mmctr_pipeline.defs.run_guard import STORAGE_TAG, claimed
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.monitoring.night import Night
from mmctr_pipeline.monitoring.notify import read_events
from mmctr_pipeline_tests.data.day_data import FOURTH, write_day, write_days
from mmctr_pipeline_tests.defs.run_states import LAUNCHED, killed_run, run_in_state
from mmctr_pipeline_tests.monitoring.drawn_nights import Population

STARTED, QUEUED = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.QUEUED


def _deployment(data_dir: Path) -> Deployment:
    return Deployment(data_dir, data_dir / "storage", preset=None)


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.parquet").write_bytes(b"some rows")
    for module in (schedules, run_events, days):
        monkeypatch.setattr(module, "current_deployment", lambda: _deployment(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def module_instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def instance(module_instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """The instance of the module, emptied, as a new one takes half a second."""
    module_instance.wipe()
    module_instance.wipe_all_schedules()
    return module_instance


def _tick(instance: dg.DagsterInstance) -> dg.RunRequest | str:
    context = dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime(2026, 1, 2, 2, tzinfo=ZoneInfo("UTC")),
        repository_def=defs.get_repository_def(),
    )
    tick = schedules.nightly.evaluate_tick(context)
    assert tick.run_requests is not None
    return tick.run_requests[0] if tick.run_requests else str(tick.skip_message)


def _record_success(instance: dg.DagsterInstance, request: dg.RunRequest) -> None:
    """Record a run that succeeded, as if the schedule had started it."""
    run = instance.create_run_for_job(
        job_def=defs.resolve_job_def("full_pipeline"),
        tags={**request.tags, "dagster/schedule_name": "nightly"},
    )
    event = dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.RUN_SUCCESS.value, job_name="full_pipeline"
    )
    entry = dg.EventLogEntry(
        error_info=None,
        level=10,
        user_message="",
        run_id=run.run_id,
        timestamp=0.0,
        dagster_event=event,
    )
    instance.handle_new_event(entry)


def test_the_nightly_schedule_runs_the_full_pipeline_at_2_utc() -> None:
    assert schedules.nightly.cron_schedule == "0 2 * * *"
    assert schedules.nightly.execution_timezone == "UTC"
    assert schedules.nightly.job_name == "full_pipeline"


def test_the_schedule_skips_only_if_the_latest_success_had_the_same_inputs(
    data_dir: Path, instance: dg.DagsterInstance
) -> None:
    request = _tick(instance)
    assert isinstance(request, dg.RunRequest)
    assert isinstance(_tick(instance), dg.RunRequest), "skipped before any run succeeded"
    _record_success(instance, request)
    skipped = _tick(instance)
    assert isinstance(skipped, str)
    assert "which succeeded" in skipped

    train = data_dir / "train.parquet"
    before = train.read_bytes(), train.stat().st_mtime_ns
    train.write_bytes(b"some rows and more")
    changed = _tick(instance)
    assert isinstance(changed, dg.RunRequest), "skipped although the data changed"
    _record_success(instance, changed)

    train.write_bytes(before[0])
    os.utime(train, ns=(before[1], before[1]))
    # Storage still holds the model of the changed data.
    assert isinstance(_tick(instance), dg.RunRequest), "skipped although the data changed back"


def test_a_broken_link_changes_the_input_stamp_without_an_error(data_dir: Path) -> None:
    before = schedules.input_stamp()
    (data_dir / "1.jpg").symlink_to(data_dir / "nowhere.jpg")
    assert schedules.input_stamp() != before


def test_links_to_the_data_folder_itself_are_not_followed(data_dir: Path) -> None:
    before = schedules.input_stamp()
    # Following them would never end in practice: each link leads to three links.
    for name in "abc":
        (data_dir / name).symlink_to(data_dir)
    assert schedules.input_stamp() == before


def test_another_preset_changes_the_input_stamp(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmctr_pipeline.presets.preset import load_preset

    before = schedules.input_stamp()
    monkeypatch.setattr(schedules, "deployment_preset", lambda: load_preset("text_only"))
    assert schedules.input_stamp() != before


def test_the_schedule_skips_while_a_run_of_any_dagster_home_writes_to_the_storage(
    data_dir: Path, instance: dg.DagsterInstance
) -> None:
    with claimed(data_dir / "storage", "7", "run 7 (make run)"):
        skipped = _tick(instance)
    assert isinstance(skipped, str)
    assert skipped.startswith(f"{data_dir / 'storage'} is in use by run 7 (make run), since 20")
    assert isinstance(_tick(instance), dg.RunRequest)


def test_the_schedule_skips_for_unfinished_runs_of_its_dagster_home(
    data_dir: Path, instance: dg.DagsterInstance
) -> None:
    runs: list[tuple[dg.DagsterRunStatus, dict[str, str], bool]] = [
        (QUEUED, {}, True),
        (dg.DagsterRunStatus.STARTING, {}, True),
        (STARTED, {}, True),
        (STARTED, {STORAGE_TAG: "/another/storage"}, False),
        (dg.DagsterRunStatus.NOT_STARTED, {}, False),
        (dg.DagsterRunStatus.FAILURE, {}, False),
    ]
    for status, tags, skips in runs:
        run = run_in_state(instance, status, **tags)
        tick = _tick(instance)
        if skips:
            assert f"is in use by run {run.run_id} (train), " in str(tick)
        else:
            assert isinstance(tick, dg.RunRequest)
        instance.delete_run(run.run_id)


def test_runs_that_only_observe_the_sources_do_not_keep_a_night_from_starting(
    data_dir: Path, instance: dg.DagsterInstance
) -> None:
    run_in_state(instance, QUEUED, job="observe_sources")
    observing = run_in_state(instance, STARTED, job="__ASSET_JOB")
    with executing(instance, observing):
        assert isinstance(_tick(instance), dg.RunRequest)


def test_the_schedule_ends_a_killed_run_and_starts_the_next(
    data_dir: Path, instance: dg.DagsterInstance
) -> None:
    run = killed_run(instance)
    assert isinstance(_tick(instance), dg.RunRequest)
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    (event,) = read_events(data_dir / "storage")
    assert (event.kind, event.run_id) == ("run_failed", run.run_id)
    assert event.headline.startswith("The process of this run was lost: process ")


def _accept(data_dir: Path, day: str) -> None:
    profile = Population().night(1, find_data(data_dir))
    night = Night(dataclasses.replace(profile, folder=str(data_dir), day=day))
    night.write(data_dir / "storage", "accepted")


def test_the_schedule_skips_a_half_written_day_with_one_event(
    data_dir: Path, instance: dg.DagsterInstance
) -> None:
    (data_dir / "train.parquet").unlink()
    write_days(data_dir)
    today = datetime.now(ZoneInfo("UTC")).date()
    folder = write_day(data_dir, str(today), marked=False)
    assert isinstance(_tick(instance), dg.RunRequest), "the day before has not been run"
    _accept(data_dir, FOURTH)
    skipped = {str(_tick(instance)) for _ in range(2)}
    (reason,) = skipped
    assert reason.startswith(f"{folder}: the day is not complete")
    (event,) = read_events(data_dir / "storage")
    assert (event.kind, event.day, event.headline) == ("night_skipped", str(today), reason)

    (folder / "_SUCCESS").touch()
    assert isinstance(_tick(instance), dg.RunRequest)


def test_a_missing_day_is_an_event_but_changed_data_still_start_a_run(
    data_dir: Path, instance: dg.DagsterInstance
) -> None:
    (data_dir / "train.parquet").unlink()
    write_days(data_dir)
    _accept(data_dir, FOURTH)
    assert isinstance(_tick(instance), dg.RunRequest)
    (event,) = read_events(data_dir / "storage")
    assert event.kind == "night_skipped"
    assert f"the latest complete day is {FOURTH}, " in event.headline


def test_the_schedule_skips_while_its_alternative_is_running(
    data_dir: Path, instance: dg.DagsterInstance
) -> None:
    origin = RemoteInstigatorOrigin(LAUNCHED.repository_origin, schedules.CHANGES_SENSOR)
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
    instance.add_instigator_state(state)
    skipped = _tick(instance)
    assert "the sensor nightly_if_changed is running" in str(skipped)
    instance.update_instigator_state(state.with_status(InstigatorStatus.STOPPED))
    assert isinstance(_tick(instance), dg.RunRequest)
