"""The events of runs (`monitoring.notify`), and the message for the terminal when a run fails."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._utils.error import SerializableErrorInfo

from mmctr_pipeline import advice
from mmctr_pipeline.defs.config import current_deployment
from mmctr_pipeline.defs.days import DAY_TAG
from mmctr_pipeline.defs.declare import FIGURES
from mmctr_pipeline.defs.run_guard import STORAGE_TAG
from mmctr_pipeline.monitoring.notify import Event, Kind, Notifier, notify, read_events

CHECK_FAILED = "DagsterAssetCheckFailedError"
_PLAIN_ERRORS = {*advice.NAMES, CHECK_FAILED}
"""Errors that are shown without a traceback. A failed check has already shown its reason."""

_REFUSALS = {"NoChampionError"}
"""Errors that follow from a rejected challenger, which has an event of its own."""

_CRASH = "ChildProcessCrashException"
_CRASH_ADVICE = (
    "error: the process of this step crashed or was killed, most often by the system because "
    "memory ran out (see dmesg). Fix: free memory, or set MMCTR_EXECUTOR=in_process, which runs "
    "one step at a time. Then run the same command again: it encodes only what is missing, and "
    "training resumes at its last checkpoint"
)


def error_text(error: SerializableErrorInfo) -> str:
    """Return the message of an error that the user can correct, or the whole traceback."""
    for cause in causes(error):
        if cause.cls_name == _CRASH:
            return _CRASH_ADVICE
        if cause.cls_name == "DagsterSubprocessError" and _CRASH in cause.message:
            return "error: the process of a step was lost, see above"
        if cause.cls_name in _PLAIN_ERRORS:
            return f"error: {_message(cause)}"
    return error.to_string()


def failure_event(instance: dg.DagsterInstance, run: dg.DagsterRun, storage: Path) -> Event | None:
    """Return the event of a failed run; None if the run already has an event with the reason.

    If a blocking check failed, the kind is `night_blocked`, and the headline has its figures.
    Otherwise it is `run_failed`, and the headline has the first error.

    Parameters
    ----------
    instance
        The instance that has the run.
    run
        The failed run.
    storage
        The storage folder that the run writes to.
    """
    steps = events_of(instance, run.run_id, dg.DagsterEventType.STEP_FAILURE)
    errors = [step.step_failure_data.error for step in steps]
    classes = [{cause.cls_name for cause in causes(error)} for error in errors]
    checks = _failed_checks(instance, run) if any(CHECK_FAILED in each for each in classes) else []
    if checks:
        told = [f"{_key(check)}: {check.check_name}: {check.description}" for check in checks]
        return run_event("night_blocked", _figures(checks[0]), "\n".join(told), run, storage)
    if classes and all(_REFUSALS & each for each in classes) and _has_event(run, storage):
        return None
    if errors:
        headline = f"{steps[0].step_key}: {_reason(errors[0])}"
        return run_event("run_failed", headline, error_text(errors[0]), run, storage)
    ends = events_of(instance, run.run_id, dg.DagsterEventType.RUN_FAILURE)
    message = ends[-1].message if ends else None
    error = getattr(ends[-1].event_specific_data, "error", None) if ends else None
    headline = _reason(error) if error else message or "the run failed"
    return run_event("run_failed", headline, error_text(error) if error else "", run, storage)


def notify_of_failure(
    instance: dg.DagsterInstance, run: dg.DagsterRun, notifier: Notifier | None = None
) -> Event | None:
    """Send the event of a failed run; return it, or None if the run needs no further event.

    Runs of other storage folders have their own deployment to report them.

    Parameters
    ----------
    instance, run
        As in `failure_event`.
    notifier
        By default that of the environment.
    """
    storage = current_deployment().storage_dir
    if run.tags.get(STORAGE_TAG, str(storage)) != str(storage):
        return None
    event = failure_event(instance, run, storage)
    return event if event and notify(event, notifier) else None


def notify_from_step(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
    storage: Path,
    kind: Kind,
    headline: str,
    detail: str,
) -> None:
    """Send an event of the run that executes a step; parameters as in `Event`."""
    # The tags as they are now: `context.run` has those from before the step.
    run = context.instance.get_run_by_id(context.run.run_id) or context.run
    notify(run_event(kind, headline, detail, run, storage))


def run_event(kind: Kind, headline: str, detail: str, run: dg.DagsterRun, storage: Path) -> Event:
    """Return an event of a run; parameters as in `Event`."""
    day = run.tags.get(DAY_TAG, "")
    return Event(kind, headline, detail, run_id=run.run_id, day=day, storage=str(storage))


def first_sentence(text: str) -> str:
    """Return the first sentence of an explanation, which has the figures."""
    return text.split(". ")[0]


def _has_event(run: dg.DagsterRun, storage: Path) -> bool:
    return any(event.run_id == run.run_id for event in read_events(storage))


def events_of(instance: dg.DagsterInstance, run_id: str, kind: dg.DagsterEventType) -> list[Any]:
    """Return the events of a kind that a run has recorded, oldest first."""
    records = instance.get_records_for_run(run_id, of_type=kind).records
    return [record.event_log_entry.dagster_event for record in records]


def _failed_checks(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[AssetCheckEvaluation]:
    events = events_of(instance, run.run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    evaluations = [event.asset_check_evaluation_data for event in events]
    return [
        each
        for each in evaluations
        if not each.passed and each.blocking and each.severity is dg.AssetCheckSeverity.ERROR
    ]


def _key(check: AssetCheckEvaluation) -> str:
    return check.asset_key.to_user_string()


def _figures(check: AssetCheckEvaluation) -> str:
    figures = check.metadata.get(FIGURES)
    text = str(figures.value) if figures else first_sentence(check.description or "failed")
    return f"{check.check_name}: {text}"


def causes(error: SerializableErrorInfo | None) -> list[SerializableErrorInfo]:
    """Return an error and its causes, the first cause last."""
    causes = []
    while error is not None:
        causes.append(error)
        error = error.cause
    return causes


def _reason(error: SerializableErrorInfo) -> str:
    """Return the message that tells a person why a step failed, in one sentence if possible."""
    chain = causes(error)
    if any(cause.cls_name == _CRASH for cause in chain):
        return "the process of the step crashed or was killed"
    plain = [cause for cause in chain if cause.cls_name in _PLAIN_ERRORS]
    if plain:
        return _message(plain[0])
    return f"{chain[-1].cls_name}: {_message(chain[-1])}"


def _message(error: SerializableErrorInfo) -> str:
    # It begins with the class ("module.Class: ..."), which is left out.
    return re.sub(r"^[\w.]+: ", "", error.message.strip())
