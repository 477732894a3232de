"""One run at a time writes to a storage folder; later ones wait, and can be stopped meanwhile."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from mmctr_pipeline.defs import run_guard
from mmctr_pipeline.defs.launches import LAUNCH_TAG, lock_path
from mmctr_pipeline.defs.run_guard import STORAGE_TAG, claimed, guarded, storage_user
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.files.holders import Holder, holder_of

SEEN: list[tuple[Holder | None, Holder | None]] = []
"""Holders of the storage folder's lock and the run's lock while the asset was materialised."""


@dg.asset
def artefact(context: dg.AssetExecutionContext) -> None:
    """Note the locks."""
    run = context.instance.get_run_by_id(context.run_id)
    assert run is not None
    storage = Path(run.tags[STORAGE_TAG])
    SEEN.append((storage_user(storage), holder_of(lock_path(context.instance, context.run_id))))


@dg.observable_source_asset
def source() -> dg.DataVersion:
    """Observe nothing."""
    return dg.DataVersion("1")


_DEFS = dg.Definitions(
    [artefact, source],
    jobs=[
        dg.define_asset_job("materialise", dg.AssetSelection.assets("artefact")),
        dg.define_asset_job("observe", dg.AssetSelection.assets("source")),
    ],
    executor=guarded(dg.in_process_executor),
)


def materialise() -> dg.JobDefinition:
    return _DEFS.resolve_job_def("materialise")


def observe() -> dg.JobDefinition:
    return _DEFS.resolve_job_def("observe")


def execute(job: Callable[[], dg.JobDefinition], instance: dg.DagsterInstance, **tags: str) -> str:
    """Execute a job through its own executor; return the id of its run."""
    result = dg.execute_job(dg.reconstructable(job), instance, tags=tags)
    assert result.success
    return result.run_id


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    deployment = Deployment(None, tmp_path / "storage", None)
    monkeypatch.setattr(run_guard, "current_deployment", lambda: deployment)
    SEEN.clear()
    return deployment.storage_dir


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def test_a_run_holds_the_locks_of_its_storage_and_of_itself(
    storage: Path, instance: dg.DagsterInstance
) -> None:
    run_id = execute(materialise, instance)
    ((of_storage, of_run),) = SEEN
    assert of_storage is not None
    assert of_run is not None
    assert of_storage.label == of_run.label == f"run {run_id} (materialise)"
    assert storage_user(storage) is None
    assert not lock_path(instance, run_id).exists()


def test_a_run_waits_until_the_storage_is_free(storage: Path, instance: dg.DagsterInstance) -> None:
    run = threading.Thread(target=execute, args=(materialise, instance))
    with claimed(storage, "7", "run 7 (make run)"):
        run.start()
        deadline = time.monotonic() + 60
        while not (said := _messages(instance, "Waiting: ")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert said[0].startswith(f"Waiting: {storage} is in use by run 7 (make run), since 20")
        assert SEEN == []
    run.join(60)
    assert len(SEEN) == 1


def test_a_run_that_only_observes_does_not_wait(
    storage: Path, instance: dg.DagsterInstance
) -> None:
    with claimed(storage, "7", "run 7 (make run)"):
        run_id = execute(observe, instance)
    messages = [entry.user_message for entry in instance.all_logs(run_id)]
    assert not [message for message in messages if message.startswith("Waiting: ")]


def test_make_run_claims_the_storage_before_its_run_exists(
    storage: Path, instance: dg.DagsterInstance
) -> None:
    with claimed(storage, "launch", "make run"):
        run_id = execute(materialise, instance, **{LAUNCH_TAG: "launch"})
        ((of_storage, _),) = SEEN
        assert of_storage is not None
        assert of_storage.label == f"run {run_id} (make run)"


def _messages(instance: dg.DagsterInstance, start: str) -> list[str]:
    entries = [entry for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]
    return [entry.user_message for entry in entries if entry.user_message.startswith(start)]


@pytest.mark.slow
def test_ctrl_c_ends_a_run_that_waits(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(tmp_path / "home"),
        "MMCTR_STORAGE_DIR": str(tmp_path / "storage"),
    }
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "--select", "artefact"]
    with (
        claimed(tmp_path / "storage", "7", "run 7 (make run)"),
        subprocess.Popen(
            [*command, "-f", __file__, "-a", "_DEFS"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if "Waiting: " in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) != 0
        assert "Execution was interrupted" in process.stdout.read()
