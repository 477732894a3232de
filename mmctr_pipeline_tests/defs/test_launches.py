"""Dead launches are reported, and several launches can open a new Dagster home at once."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from mmctr_pipeline.defs.launches import Launch, launched, report_dead_launches
from mmctr_pipeline.files.locks import locked

OPEN = "from mmctr_pipeline.defs.launches import open_instance; open_instance().get_runs()"


def _run(launch: Launch, status: dg.DagsterRunStatus) -> str:
    return create_run_for_test(launch.instance, tags=launch.tags, status=status).run_id


def test_only_the_run_of_a_killed_launch_is_reported_as_failed() -> None:
    with dg.instance_for_test() as instance:
        folder = Path(instance.root_directory) / "launches"
        killed, ended = Launch(instance, "killed"), Launch(instance, "ended")
        without_run = Launch(instance, "without-run")
        elsewhere = Launch(instance, "elsewhere")
        started = dg.DagsterRunStatus.STARTED
        killed_run, elsewhere_run = _run(killed, started), _run(elsewhere, started)
        ended_run = _run(ended, dg.DagsterRunStatus.SUCCESS)
        folder.mkdir()
        for launch in (killed, ended, without_run):
            # A lock file that no process holds.
            (folder / f"{launch.id}.lock").touch()
        with launched(instance) as alive:
            alive_run = _run(alive, started)
            assert report_dead_launches(instance) == [killed_run]
            statuses = {run.run_id: run.status for run in instance.get_runs()}
            assert [path.stem for path in folder.iterdir()] == [alive.id]
        assert statuses == {
            killed_run: dg.DagsterRunStatus.FAILURE,
            ended_run: dg.DagsterRunStatus.SUCCESS,
            alive_run: started,
            elsewhere_run: started,
        }
        assert list(folder.iterdir()) == []


def test_the_end_of_a_run_is_reported_once() -> None:
    with dg.instance_for_test() as instance, launched(instance) as launch:
        assert launch.report_end("stopped") is None
        run_id = _run(launch, dg.DagsterRunStatus.STARTED)
        assert launch.report_end("stopped") == run_id
        assert launch.report_end("stopped") is None


@pytest.mark.slow
def test_simultaneous_first_runs_share_a_new_dagster_home(tmp_path: Path) -> None:
    environment = os.environ | {"DAGSTER_HOME": str(tmp_path / "home")}
    # The processes wait for this lock, so that all have imported Dagster when the first gets it.
    with locked(tmp_path / "home" / ".opening.lock"):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", f"import dagster; {OPEN}"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(4)
        ]
        with pytest.raises(subprocess.TimeoutExpired):
            processes[-1].wait(timeout=8)
    for process in processes:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
        assert "Error" not in out
