"""Killed runs are ended and free their pool slots; live and unknown ones are left alone."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.defs import run_events
from mmctr_pipeline.defs.dead_runs import end_dead_runs, unfinished_runs
from mmctr_pipeline.defs.launches import LAUNCH_TAG, executing, launched, lock_folder, lock_path
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.files.holders import recorded_holder
from mmctr_pipeline.monitoring.notify import read_events
from mmctr_pipeline_tests.defs.run_states import killed_run, run_in_state
from mmctr_pipeline_tests.defs.servers import BIN, server, wait_until

Status = dg.DagsterRunStatus


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_events, "current_deployment", lambda: Deployment(None, tmp_path, None))
    return tmp_path


def statuses(instance: dg.DagsterInstance) -> dict[str, dg.DagsterRunStatus]:
    return {run.run_id: run.status for run in instance.get_runs()}


def test_only_runs_whose_process_has_ended_are_recorded_as_ended(storage: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance, contextlib.ExitStack() as alive:
        launch = alive.enter_context(launched(instance))
        killed, cancelled = killed_run(instance), killed_run(instance, Status.CANCELING)
        expected = {
            killed.run_id: Status.FAILURE,
            cancelled.run_id: Status.CANCELED,
            # Killed after `make run` had created its run, and before the run was executed.
            killed_run(instance, Status.NOT_STARTED, {LAUNCH_TAG: "1"}, lock="1").run_id: (
                Status.FAILURE
            ),
        }
        living = run_in_state(instance, Status.STARTED)
        alive.enter_context(executing(instance, living))
        of_living_launch = run_in_state(instance, Status.NOT_STARTED, **launch.tags)
        # Executed again in the UI, which copies the tags, also of a launch that has ended.
        again = run_in_state(instance, Status.STARTED, **{LAUNCH_TAG: "1"})
        alive.enter_context(executing(instance, again))
        unfinished = [living, of_living_launch, again]
        unfinished += [run_in_state(instance, state) for state in (Status.STARTED, Status.STARTING)]
        unfinished.append(run_in_state(instance, Status.QUEUED))
        expected |= {run.run_id: run.status for run in unfinished}
        expected[killed_run(instance, Status.SUCCESS).run_id] = Status.SUCCESS

        assert {dead.run.run_id for dead in end_dead_runs(instance)} == set(list(expected)[:3])
        assert statuses(instance) == expected
        assert end_dead_runs(instance) == []
        names = {path.stem for path in lock_folder(instance).glob("*.lock")}
        assert names == {launch.id, living.run_id, again.run_id}
    # A cancelled run needs no event.
    assert [event.run_id for event in read_events(storage)] == [killed.run_id, list(expected)[2]]


def test_a_free_lock_of_another_machine_ends_no_run() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = killed_run(instance)
        path = lock_path(instance, run.run_id)
        holder = recorded_holder(path)
        assert holder is not None
        elsewhere = {**vars(holder), "host": "elsewhere", "boot": "another kernel"}
        path.write_text(json.dumps(elsewhere))
        assert end_dead_runs(instance) == []
        assert path.exists()


def test_a_silent_run_without_a_lock_is_ended_only_if_that_is_asked_for() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = run_in_state(instance, Status.STARTED)
        instance.report_engine_event("a sign of life", run)
        (unknown,) = unfinished_runs(instance)
        assert unknown.alive is None
        assert unknown.reason == "it holds no lock here, and its last event is 0 minutes old"
        assert end_dead_runs(instance) == end_dead_runs(instance, silent_minutes=5) == []
        assert len(end_dead_runs(instance, silent_minutes=0)) == 1
        assert statuses(instance) == {run.run_id: Status.FAILURE}


class WatchingLauncher(DefaultRunLauncher):
    """A launcher that knows whether its workers live, as that of Kubernetes does."""

    status = WorkerStatus.UNKNOWN

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        return CheckRunHealthResult(self.status)


def test_a_launcher_is_asked_about_the_runs_that_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = {
        WorkerStatus.RUNNING: True,
        WorkerStatus.FAILED: False,
        WorkerStatus.NOT_FOUND: False,
        WorkerStatus.SUCCESS: None,
        WorkerStatus.UNKNOWN: None,
    }
    launcher = {"module": __name__, "class": "WatchingLauncher"}
    with dg.instance_for_test(overrides={"run_launcher": launcher}) as instance:
        run_in_state(instance, Status.STARTED)
        instance.create_run_for_job(_nothing, status=Status.STARTED)  # by the command line
        for status, alive in expected.items():
            monkeypatch.setattr(WatchingLauncher, "status", status)
            assert [run.alive for run in unfinished_runs(instance)] == [alive, None], status


@dg.job
def _nothing() -> None:
    """Do nothing."""


def test_reap_prints_a_line_for_each_unfinished_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with dg.instance_for_test() as instance:
        monkeypatch.setenv("DAGSTER_HOME", instance.root_directory)
        assert main(["reap"]) == 0
        assert capsys.readouterr().out == "there are no unfinished runs\n"
        dead, unknown = killed_run(instance), run_in_state(instance, Status.STARTED)
        for options, done in (
            (["--dry-run"], "would be recorded as ended"),
            ([], "recorded as ended"),
        ):
            assert main(["reap", *options]) == 0
            first, second = capsys.readouterr().out.splitlines()
            assert first.startswith(f"run {dead.run_id} (train), STARTED: process ")
            assert first.endswith(f" has ended; {done}")
            assert second.startswith(f"run {unknown.run_id} (train), STARTED: it holds no lock")
            assert second.endswith("left alone; use --minutes N to end it after N silent minutes")
            changed = Status.FAILURE if not options else Status.STARTED
            assert statuses(instance)[dead.run_id] is changed


def test_reap_needs_a_dagster_home(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert main(["reap"]) == 2
    assert capsys.readouterr().err.startswith("error: DAGSTER_HOME is not set. Fix: ")


POOLED = """
import time
from pathlib import Path
import dagster as dg
from mmctr_pipeline.defs.executors import executor
from mmctr_pipeline.encoders.config import EncodersConfig

@dg.asset(pool="gpu")
def pooled():
    started = Path(__file__).with_name("started")
    if not started.exists():
        started.touch()
        time.sleep(600)

defs = dg.Definitions([pooled], executor=executor("in_process", EncodersConfig()))
"""


@pytest.mark.slow
def test_after_reap_the_next_run_gets_the_pool_slot_of_a_killed_run(tmp_path: Path) -> None:
    (tmp_path / "pooled.py").write_text(POOLED)
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("concurrency: {pools: {granularity: op, default_limit: 1}}")
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "MMCTR_STORAGE_DIR": str(tmp_path / "storage"),
    }
    command = [str(BIN / "dagster"), "asset", "materialize", "--select", "pooled"]
    command += ["-f", str(tmp_path / "pooled.py")]
    log = tmp_path / "run.log"
    with server(command, environment, log) as first:
        wait_until(lambda: (tmp_path / "started").exists(), first, log)
    with server(command, environment, log) as second:
        wait_until(lambda: "blocked by limit for pool gpu" in log.read_text(), second, log)
        reap = [sys.executable, "-m", "mmctr_pipeline.cli.main", "reap"]
        reaped = subprocess.run(reap, env=environment, capture_output=True, text=True, check=True)
        lines = reaped.stdout.splitlines()
        assert [line.rpartition("; ")[2] for line in lines] == ["recorded as ended", "left alone"]
        assert second.wait(timeout=60) == 0, log.read_text()
