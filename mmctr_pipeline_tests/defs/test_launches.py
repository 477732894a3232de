"""A launch reports its end, and several launches can open a new Dagster home at once."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from mmctr_pipeline.defs.launches import executing, launched, lock_folder
from mmctr_pipeline.files.locks import locked

OPEN = "from mmctr_pipeline.defs.launches import open_instance; open_instance().get_runs()"


def test_the_end_of_a_run_is_reported_once() -> None:
    with dg.DagsterInstance.ephemeral() as instance, launched(instance) as launch:
        assert launch.report_end("stopped") is None
        started = dg.DagsterRunStatus.STARTED
        run_id = create_run_for_test(instance, tags=launch.tags, status=started).run_id
        assert launch.report_end("stopped") == run_id
        assert launch.report_end("stopped") is None


def test_a_run_is_executed_even_if_its_lock_cannot_be_created(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        lock_folder(instance).write_text("a file in place of the folder")
        with executing(instance, create_run_for_test(instance)):
            pass
    assert "if this run is killed, nothing will notice it: cannot write " in caplog.text


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
