"""Print the events of a run for a terminal: steps, checks, log lines and errors, nothing twice."""

import datetime
import logging
from typing import Any, cast

import click
import dagster as dg

from mmctr_pipeline.defs.run_events import error_text

_SHOWN_EVENTS = {
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_UP_FOR_RETRY,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}
_AGAIN = "the same as above"


class EventPrinter:
    """Prints entries of a run's log, in the order in which they are given.

    A reason that was printed before, such as that of a check which fails on each source, becomes
    "the same as above".
    """

    def __init__(self) -> None:
        self._reasons: list[str] = []

    def show(self, entry: dg.EventLogEntry) -> None:
        """Print an event, with its error if it has one; skip Dagster's internal events."""
        event, level, text = entry.dagster_event, int(entry.level), entry.user_message
        if event is None:
            # For each step after a failed one, Dagster logs "Dependencies for step ... Not
            # executing."
            is_shown = level >= logging.INFO and not text.endswith("Not executing.")
        else:
            is_shown = level >= logging.ERROR or event.event_type in _SHOWN_EVENTS
        if not is_shown:
            return
        if event is not None:
            text = self._described(event)
        elif level >= logging.ERROR:
            self._reasons.append(text)
        time = datetime.datetime.fromtimestamp(entry.timestamp)
        click.echo(f"{time:%H:%M:%S}  {entry.step_key or '':<24}{text}")

    def _described(self, event: dg.DagsterEvent) -> str:
        text, data = event.message or "", cast("Any", event.event_specific_data)
        if event.event_type == dg.DagsterEventType.STEP_START:
            text = "started"
        elif event.event_type == dg.DagsterEventType.STEP_SUCCESS:
            text = f"finished in {data.duration_ms / 1000:.1f} s"
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            text = self._check(data)
        # The failure of a run repeats the error of its first failed step.
        if getattr(data, "error", None) and not getattr(data, "first_step_failure_event", None):
            reason = error_text(data.error)
            was_printed = self._was_printed(reason.removeprefix("error: "))
            text += f"\nerror: {_AGAIN}" if was_printed else f"\n{reason}"
        return text

    def _check(self, check: dg.AssetCheckEvaluation) -> str:
        reason = check.description or ""
        if check.passed:
            outcome = "passed"
        else:
            is_warning = check.severity == dg.AssetCheckSeverity.WARN
            outcome = "warns" if is_warning else "failed"
            if reason and self._was_printed(reason):
                reason = _AGAIN
        name = f"check {check.check_name} of {check.asset_key.to_user_string()} {outcome}"
        return f"{name}: {reason}" if reason else name

    def _was_printed(self, reason: str) -> bool:
        """Return whether a reason is part of what was printed, and remember it."""
        found = any(reason in earlier for earlier in self._reasons)
        self._reasons.append(reason)
        return found
