"""`make run` fails cleanly when it cannot start, cannot write, or is interrupted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest

from mmctr_pipeline.defs import run
from mmctr_pipeline.defs.config import current_deployment, deployment_preset
from mmctr_pipeline.defs.launches import report_dead_launches
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import PRESET, RUN_COMMAND, Deployment


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"DAGSTER_HOME": ""}, "$DAGSTER_HOME"),
        ({"DAGSTER_HOME": "relative"}, "must be an absolute path"),
        ({"DAGSTER_HOME": "FOLDER/file"}, "cannot write FOLDER/file: Not a directory"),
        (
            {"DAGSTER_HOME": "/proc/mmctr"},
            "or set DAGSTER_HOME (now /proc/mmctr) to another folder",
        ),
        ({"MMCTR_STORAGE_DIR": "FOLDER/file"}, "cannot write FOLDER/file: Not a directory"),
        (
            {"MMCTR_STORAGE_DIR": "FOLDER/file/below"},
            "set MMCTR_STORAGE_DIR (now FOLDER/file/below)",
        ),
        ({"MMCTR_PRESET": "sampel"}, "unknown preset 'sampel'"),
        ({"MMCTR_EXECUTOR": "celery"}, "known executors"),
        ({"MMCTR_PUBLISH_URL": "file://FOLDER/file"}, "cannot write to file://FOLDER/file: "),
    ],
)
def test_an_unusable_environment_is_reported_without_a_traceback(
    variables: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    small_sample: Path,
) -> None:
    (tmp_path / "file").write_text("mine")
    deployment = Deployment(small_sample, tmp_path)
    for name, value in deployment.environment(**variables).items():
        monkeypatch.setenv(name, value.replace("FOLDER", str(tmp_path)))
    for function in (current_deployment, deployment_preset):
        function.cache_clear()
    try:
        assert run.main() == 2
    finally:
        for function in (current_deployment, deployment_preset):
            function.cache_clear()
    out = capsys.readouterr().out
    assert out.startswith("error: ")
    assert message.replace("FOLDER", str(tmp_path)) in out
    assert "Traceback" not in out
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_one_line_that_names_path_and_variable(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)
    model = deployment.storage / "latest_model.pt"
    earlier, n_bytes = os.readlink(model), model.stat().st_size
    (tmp_path / "preset.yaml").write_text(PRESET.replace("max_epochs: 2", "max_epochs: 1"))
    result = deployment.run_pipeline(max_file_bytes=n_bytes // 2)
    assert result.returncode == 1, result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: cannot write {deployment.storage}/")
    assert "File too large. Fix: raise the limit of file sizes (ulimit -f), or set " in line
    assert f"MMCTR_STORAGE_DIR (now {deployment.storage}) to another folder" in line
    assert "Traceback" not in result.stdout
    assert "The run failed. " in result.stdout
    assert os.readlink(model) == earlier
    assert ModelFile.load(model).training_config["max_epochs"] == 2


def test_a_dagster_database_that_cannot_grow_is_named(tmp_path: Path, small_sample: Path) -> None:
    deployment = Deployment(small_sample, tmp_path)
    result = deployment.run_pipeline(max_file_bytes=20_000)
    assert result.returncode == 2
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: Dagster cannot use its database in {deployment.home}: ")
    assert line.endswith("Fix: free some space there, or set DAGSTER_HOME to another folder")
    assert "Traceback" not in result.stdout


ENDLESS = PRESET.replace("max_epochs: 2, patience: 2", "max_epochs: 500, patience: 500")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "receiver"),
    [
        (signal.SIGINT, "process group"),
        (signal.SIGTERM, "main process"),
        (signal.SIGKILL, "main process"),
        (signal.SIGKILL, "dagster command"),
    ],
)
def test_an_interrupted_run_leaves_the_earlier_model_and_no_processes(
    number: signal.Signals, receiver: str, finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)
    earlier = os.readlink(deployment.storage / "latest_model.pt")
    (tmp_path / "preset.yaml").write_text(ENDLESS)
    dagster_command = [
        *(sys.executable, "-m", "dagster", "asset", "materialize"),
        *("--select", "trained_model", "-m", "mmctr_pipeline.definitions"),
    ]
    process = subprocess.Popen(
        dagster_command if receiver == "dagster command" else RUN_COMMAND,
        env=deployment.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "epoch 2 of 500" in line:
                break
        else:
            pytest.fail("the run ended before it could be interrupted")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3  # forkserver, resource tracker, step
        if receiver == "process group":  # as Ctrl-C does in a terminal
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        output = process.stdout.read()
    finally:
        process.kill()
        process.wait()
    assert os.readlink(deployment.storage / "latest_model.pt") == earlier
    assert ModelFile.load(deployment.storage / "latest_model.pt").training_config["max_epochs"] == 2
    if receiver == "dagster command":
        return
    with dg.DagsterInstance.from_config(str(deployment.home)) as instance:
        statuses = [record.status for record in instance.get_runs()]
        if number is signal.SIGKILL:
            assert statuses[0] is dg.DagsterRunStatus.STARTED
            assert len(report_dead_launches(instance)) == 1
            statuses = [record.status for record in instance.get_runs()]
        else:
            assert process.returncode == 128 + number, output
            assert output.splitlines()[-1].startswith(f"Stopped by {number.name}. ")
            assert "Traceback" not in output
    assert statuses[0] is dg.DagsterRunStatus.FAILURE
