"""`make run` prints each reason once, and then the command that helps."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.event_printer import EventPrinter
from mmctr_pipeline.defs.next_step import next_step
from mmctr_pipeline.files.errors import WriteError
from mmctr_pipeline.reporting.checks import CheckOutcome

REASON = "half of the rows are gone. Fix: export them again"


@dg.asset
def titles() -> None:
    """Fail as covers do."""
    raise DataError(Path("clip"), "the weights are missing", "copy them")


@dg.asset
def covers() -> None:
    """Fail as titles do."""
    raise DataError(Path("clip"), "the weights are missing", "copy them")


@dg.asset
def rows() -> None:
    """An asset whose checks fail."""


@declare.checks(first="the first", second="the second")
def rows_checks() -> list[CheckOutcome]:
    """Fail twice for one reason."""
    return [CheckOutcome(name, False, REASON, {}) for name in ("first", "second")]


@dg.asset
def full() -> None:
    """Fail on a full disk."""
    raise WriteError(28, "cannot write model.pt: No space left. Fix: free some", "model.pt")


@dg.asset
def broken() -> None:
    """Fail with a fault of the code."""
    raise AssertionError("not the user's fault")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def failed(instance: dg.DagsterInstance, *definitions: object) -> str:
    """Materialise assets, which fail, and return the id of the run."""
    result = dg.materialize([*definitions], instance=instance, raise_on_error=False)  # type: ignore[list-item]
    assert not result.success
    return result.run_id


def printed(instance: dg.DagsterInstance, run_id: str, out: pytest.CaptureFixture[str]) -> str:
    out.readouterr()
    printer = EventPrinter()
    for record in instance.get_records_for_run(run_id).records:
        printer.show(record.event_log_entry)
    return out.readouterr().out


def test_the_same_error_of_two_steps_is_printed_once_without_a_traceback(
    instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(instance, failed(instance, titles, covers), capsys)
    assert text.count("error: clip: the weights are missing. Fix: copy them\n") == 1
    assert text.count("error: the same as above\n") == 1
    assert text.count("the weights are missing") == 1
    assert "Traceback" not in text
    assert "Stack Trace" not in text


def test_the_same_reason_of_two_checks_is_printed_once(
    instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(instance, failed(instance, rows, rows_checks), capsys)
    assert f"check first of rows failed: {REASON}\n" in text
    assert "check second of rows failed: the same as above\n" in text
    assert text.count(REASON) == 1


@pytest.mark.parametrize("definitions", [(titles, covers), (rows, rows_checks)])
def test_if_data_or_settings_must_change_everything_is_to_run_again(
    definitions: tuple[object, ...], instance: dg.DagsterInstance
) -> None:
    advice = next_step(instance, failed(instance, *definitions), Path("run_config.yaml"))
    assert advice.startswith("Fix what the error names, then run the same command again")
    assert "asset materialize" not in advice


def test_otherwise_the_command_starts_at_the_assets_that_failed(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "my home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("MMCTR_PRESET", "sample")
    monkeypatch.setenv("MMCTR_NOTIFY_URL", "https://example.org/secret-5d1c")
    config = tmp_path / "run_config.yaml"
    advice = next_step(instance, failed(instance, full, broken), config)
    command = shlex.split(advice.splitlines()[-1])
    variables = [word for word in command if "=" in word]
    assert variables == [f"DAGSTER_HOME={home}", "MMCTR_DATA_DIR=", "MMCTR_PRESET=sample"]
    dagster, *arguments = command[len(variables) :]
    assert os.access(dagster, os.X_OK)
    assert arguments == [
        *("asset", "materialize", "--select", "broken+,full+"),
        *("-m", "mmctr_pipeline.definitions", "-c", str(config)),
    ]
