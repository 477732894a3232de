"""Errors of a run are printed without a traceback if the user can correct them."""

import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterSubprocessError
from dagster._core.executor.child_process_executor import ChildProcessCrashException
from dagster._utils.error import serializable_error_info_from_exc_info

from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.defs.launch import error_text


@dg.asset
def vectors() -> None:
    """An asset whose check fails."""


@dg.asset_check(asset=vectors, blocking=True)
def norms() -> dg.AssetCheckResult:
    """Fail."""
    return dg.AssetCheckResult(passed=False)


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
            [vectors, norms],
            "error: 1 blocking asset check failed with ERROR severity:\nvectors: norms",
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
