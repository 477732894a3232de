"""`make run` fails cleanly when it cannot start, cannot write, or is interrupted."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from mmctr_pipeline.defs import run
from mmctr_pipeline.defs.config import current_deployment, deployment_preset
from mmctr_pipeline.defs.dead_runs import end_dead_runs
from mmctr_pipeline.defs.run_guard import claimed
from mmctr_pipeline.monitoring.notify import read_events
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import PRESET, RUN_COMMAND, Deployment
from mmctr_pipeline_tests.defs.servers import server, wait_until


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
        ({"MMCTR_CRON": "61 * *"}, "MMCTR_CRON is '61 * *', which is not a cron expression"),
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
    with new_environment():
        assert run.main() == 2
    out = capsys.readouterr().out
    assert out.startswith("error")
    assert message.replace("FOLDER", str(tmp_path)) in out
    assert "Traceback" not in out
    assert (tmp_path / "file").read_text() == "mine"


@contextlib.contextmanager
def new_environment() -> Iterator[None]:
    """Let this process read its environment variables again."""
    functions = (current_deployment, deployment_preset)
    for function in functions:
        function.cache_clear()
    try:
        yield
    finally:
        for function in functions:
            function.cache_clear()


def test_a_second_run_on_a_storage_folder_is_refused_and_leaves_it_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    small_sample: Path,
) -> None:
    deployment = Deployment(small_sample, tmp_path)
    for name, value in deployment.environment().items():
        monkeypatch.setenv(name, value)
    with new_environment(), claimed(deployment.storage, "7", "run 7 (full_pipeline)"):
        assert run.main() == 75
    out = capsys.readouterr().out
    in_use = f"error: {deployment.storage} is in use by run 7 (full_pipeline), since 20"
    assert out.startswith(in_use)
    assert "start this with --wait (make run WAIT=1)" in out
    assert not (deployment.storage / "run_config.yaml").exists()
    with dg.DagsterInstance.from_config(str(deployment.home)) as instance:
        assert instance.get_runs() == []


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
    (event,) = read_events(deployment.storage)
    assert event.kind == "run_failed"
    assert f"Recorded as run_failed in {deployment.storage}/events.jsonl" in result.stdout
    assert result.stdout.count("File too large") == 1
    assert os.readlink(model) == earlier
    assert ModelFile.load(model).training_config["max_epochs"] == 2

    (command,) = [line for line in result.stdout.splitlines() if "asset materialize" in line]
    assert "--select trained_model+ " in command
    kept = ("PATH", "PYTHONPATH", "OMP_NUM_THREADS")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    again = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "File too large" in event.headline
    assert ModelFile.load(model).training_config["max_epochs"] == 1


@pytest.mark.slow
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
    command = dagster_command if receiver == "dagster command" else RUN_COMMAND
    log = tmp_path / "run.log"
    with server(command, deployment.environment(), log) as process:
        wait_until(lambda: "epoch 2 of 500" in log.read_text(), process, log)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3  # forkserver, resource tracker, step
        if receiver == "process group":  # as Ctrl-C does in a terminal
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        process.wait(timeout=20)
    output = log.read_text()
    assert os.readlink(deployment.storage / "latest_model.pt") == earlier
    assert ModelFile.load(deployment.storage / "latest_model.pt").training_config["max_epochs"] == 2
    with dg.DagsterInstance.from_config(str(deployment.home)) as instance:
        statuses = [record.status for record in instance.get_runs()]
        if number is signal.SIGKILL:
            assert statuses[0] is dg.DagsterRunStatus.STARTED
            assert len(end_dead_runs(instance)) == 1
            statuses = [record.status for record in instance.get_runs()]
        else:
            assert process.returncode == 128 + number, output
            assert output.splitlines()[-1].startswith(f"Stopped by {number.name}. ")
            assert "Traceback" not in output
    assert statuses[0] is dg.DagsterRunStatus.FAILURE
