"""A step is tried again after a transient error, and a run if its process was lost."""

import errno
import os
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy
import sqlalchemy.exc
from dagster._core.events import RunFailureReason
from dagster._core.execution.retries import auto_reexecution_should_retry_run

from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.defs import retries
from mmctr_pipeline.defs.declare import retried
from mmctr_pipeline.defs.io_managers import StorageIOManager
from mmctr_pipeline.files.errors import WriteError, naming_write_errors
from mmctr_pipeline_tests.defs.run_states import run_in_state
from mmctr_pipeline_tests.defs.running import REPOSITORY


def _refused_connection(_: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    socket.create_connection(address, timeout=5)


def _locked_database(folder: Path) -> None:
    path = folder / "runs.db"
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("create table runs (id)")
        other.execute("begin exclusive")
        engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("insert into runs values (1)"))


def _missing_table(folder: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{folder / 'empty.db'}")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("insert into runs values (1)"))


def _full_disk(_: Path) -> None:
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def _stale_file(path: Path) -> None:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))


def _unreadable_data(path: Path) -> None:
    try:
        _stale_file(path)
    except OSError as error:
        raise DataError(path, "cannot be read", "copy the file again") from error


def _unwritable_disk(path: Path) -> None:
    with naming_write_errors(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def _wrong_data(path: Path) -> None:
    raise DataError(path, "all labels are 0", "check the export", "label")


def _missing_file(folder: Path) -> None:
    (folder / "absent").read_bytes()


FAILURES: list[tuple[Callable[[Path], None], type[Exception], bool]] = [
    (_refused_connection, ConnectionRefusedError, True),
    (_locked_database, sqlalchemy.exc.OperationalError, True),
    (_stale_file, OSError, True),
    (_unreadable_data, DataError, True),
    (_unwritable_disk, WriteError, True),
    (_missing_table, sqlalchemy.exc.OperationalError, False),
    (_full_disk, OSError, False),
    (_missing_file, FileNotFoundError, False),
    (_wrong_data, DataError, False),
]


@pytest.mark.parametrize(("fail", "error", "may_pass"), FAILURES)
def test_only_errors_that_may_pass_are_tried_again(
    fail: Callable[[Path], None], error: type[Exception], may_pass: bool, tmp_path: Path
) -> None:
    with pytest.raises(error) as raised:
        fail(tmp_path)
    assert retries.is_transient(raised.value) == may_pass


class FailingStorage(StorageIOManager):
    """Fails to write and to read once each."""

    def write(self, obj: Any, path: Path) -> None:
        _fail_once(path, "write")
        path.write_text(obj)

    def read(self, path: Path, kind: Any) -> str:
        _fail_once(path, "read")
        return path.read_text()


def _fail_once(path: Path, name: str) -> None:
    marker = path.with_name(f"{name} failed")
    if not marker.exists():
        marker.touch()
        _stale_file(path)


def _materialize(*assets: Any, folder: Path) -> tuple[bool, list[str | None]]:
    storage = FailingStorage(storage_dir=str(folder))
    result = dg.materialize(assets, resources={"failing_io": storage}, raise_on_error=False)
    is_retry = {dg.DagsterEventType.STEP_UP_FOR_RETRY.value}
    retried_steps = result.filter_events(lambda event: event.event_type_value in is_retry)
    return result.success, [event.step_key for event in retried_steps]


def test_a_step_survives_transient_errors_of_its_function_and_of_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "WAIT_SECONDS", 0.01)

    @dg.asset(io_manager_key="failing_io")
    def written() -> str:
        return "content"

    def read(written: str) -> None:
        assert written == "content"
        _fail_once(tmp_path / "x", "compute")

    success, again = _materialize(written, dg.asset(retried(read)), folder=tmp_path)
    assert success
    assert again == ["written", "read", "read"]


@pytest.mark.parametrize(("fail", "n_retries"), [(_stale_file, 2), (_wrong_data, 0)])
def test_a_step_fails_after_three_tries_and_at_once_for_wrong_data(
    fail: Callable[[Path], None], n_retries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "WAIT_SECONDS", 0.01)

    def broken() -> None:
        fail(tmp_path)

    success, again = _materialize(dg.asset(retried(broken)), folder=tmp_path)
    assert not success
    assert again == ["broken"] * n_retries


@pytest.mark.parametrize(
    ("reason", "again"),
    [
        (RunFailureReason.STEP_FAILURE, False),  # such as a failed check
        (RunFailureReason.UNEXPECTED_TERMINATION, True),
        (RunFailureReason.UNKNOWN, True),  # such as a dead run that was ended
    ],
)
def test_the_daemon_starts_a_run_again_only_if_its_process_was_lost(
    reason: RunFailureReason, again: bool, tmp_path: Path
) -> None:
    (tmp_path / "dagster.yaml").symlink_to(REPOSITORY / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        run = run_in_state(instance, dg.DagsterRunStatus.FAILURE)
        assert auto_reexecution_should_retry_run(instance, run, reason) == again
