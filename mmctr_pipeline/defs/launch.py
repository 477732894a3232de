"""Run the whole pipeline in Dagster and print its events as they are recorded."""

import dataclasses
import datetime
import json
import logging
import multiprocessing
import os
import re
import threading
from pathlib import Path
from typing import Any, cast

import click
import dagster as dg
import sqlalchemy.exc
import yaml
from dagster._utils.error import SerializableErrorInfo

from mmctr_pipeline import advice
from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline.defs.config import current_deployment, deployment_preset, run_config
from mmctr_pipeline.defs.days import DAY_TAG, day_tag
from mmctr_pipeline.defs.launches import Launch, launched, open_instance, report_dead_launches
from mmctr_pipeline.defs.stop_signals import StopSignals
from mmctr_pipeline.defs.summary import summarise, table
from mmctr_pipeline.environment import DeploymentError
from mmctr_pipeline.files.atomic import write_text
from mmctr_pipeline.files.errors import WriteError
from mmctr_pipeline.files.writable import require_writable
from mmctr_pipeline.presets.preset import preset_name
from mmctr_pipeline.publishing.store import ObjectStore, PublishError
from mmctr_pipeline.settings import SettingsError

_SHOWN_EVENTS = {
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}
_POLL_SECONDS = 0.25

_PLAIN_ERRORS = {*advice.NAMES, "DagsterAssetCheckFailedError"}
"""Errors that are shown without a traceback. A failed check has already shown its reason."""

_CRASH = "ChildProcessCrashException"
_CRASH_ADVICE = (
    "error: the process of this step crashed or was killed, most often by the system because "
    "memory ran out (see dmesg). Fix: free memory, or set MMCTR_EXECUTOR=in_process, which runs "
    "one step at a time. Then run the same command again: it encodes only what is missing, and "
    "training resumes at its last checkpoint"
)


def launch_pipeline(stop: StopSignals, day: str | None = None) -> int:
    """Run the pipeline for the deployment of this environment; return the exit status.

    For logs by day, the run is of `day`, by default of the preset's or the latest complete day.
    """
    try:
        preset, storage = deployment_preset(), current_deployment().storage_dir
        if day is not None:
            data = {**preset.data.to_mapping(), "day": day}
            preset = dataclasses.replace(preset, data=DataConfig.from_mapping(data, section="data"))
        tags = day_tag(preset.data)
        require_writable(storage, "MMCTR_STORAGE_DIR")
        if url := current_deployment().publish_url:
            ObjectStore(url).require_writable()
        with open_instance() as instance:
            return _launch(instance, run_config(preset), tags, storage, stop)
    except (
        *(SettingsError, DeploymentError, DataError, DataNotFoundError),
        *(WriteError, PublishError, dg.DagsterError),
    ) as error:
        click.echo(f"error: {error}")
    except sqlalchemy.exc.DBAPIError as error:
        click.echo(
            f"error: Dagster cannot use its database in {os.environ['DAGSTER_HOME']}: "
            f"{error.orig}. Fix: free some space there, or set DAGSTER_HOME to another folder"
        )
    return 2


def _launch(
    instance: dg.DagsterInstance,
    config: dict[str, Any],
    tags: dict[str, str],
    storage: Path,
    stop: StopSignals,
) -> int:
    config_path = storage / "run_config.yaml"
    write_text(config_path, yaml.safe_dump(config, sort_keys=False))
    click.echo(f"Preset {preset_name(current_deployment())}; its run config is in {config_path}")
    if DAY_TAG in tags:
        click.echo(f"Day {tags[DAY_TAG]}")
    for run_id in report_dead_launches(instance):
        click.echo(f"Run {run_id} was killed; it is now recorded as failed")
    with launched(instance) as launch:
        stop.before_exit = lambda: _stop(launch)
        if current_deployment().executor == "k8s":
            stop.grace_seconds = 30.0  # Dagster removes the pods.
        try:
            result = _execute(launch, config, tags, stop)
        finally:
            launch.report_end("The run was stopped.")
    if not result.success:
        if not stop.received:
            click.echo(
                f"The run failed. `make ui` shows its log, as run {result.run_id}. Artefacts "
                "written before the failure are kept. Once the cause is fixed, run the same "
                "command again, or only the asset NAME that failed and all after it:\n"
                "  dagster asset materialize --select NAME+ -m mmctr_pipeline.definitions"
            )
        return 1
    summary = summarise(instance, result, storage)
    write_text(storage / "run_summary.json", json.dumps(summary, indent=2) + "\n")
    click.echo(table(summary))
    return 0


def _stop(launch: Launch) -> None:
    for step in multiprocessing.active_children():
        step.kill()
    launch.report_end("The run was stopped.")


def _execute(
    launch: Launch, config: dict[str, Any], tags: dict[str, str], stop: StopSignals
) -> dg.JobExecutionResult:
    """Execute the job and print its events as they are recorded."""
    job = dg.build_reconstructable_job("mmctr_pipeline.definitions", "full_pipeline_job")
    # `_print_events` replaces Dagster's own console log, which is silenced.
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    ended = threading.Event()
    printer = threading.Thread(target=_print_events, args=(launch, stop, ended), daemon=True)
    printer.start()
    try:
        return dg.execute_job(
            job, launch.instance, run_config={**config, **quiet}, tags={**launch.tags, **tags}
        )
    finally:
        ended.set()
        printer.join()


def _print_events(launch: Launch, stop: StopSignals, ended: threading.Event) -> None:
    """Print the events of the run until it has ended.

    After a stop signal nothing is printed, because Dagster reports each step as failed then.
    """
    run = cursor = None
    is_last = False
    while not is_last:
        is_last = ended.wait(_POLL_SECONDS)
        run = run or launch.run()
        if run is not None:
            recorded = launch.instance.get_records_for_run(run.run_id, cursor=cursor)
            cursor = recorded.cursor
            for record in recorded.records:
                if not stop.received:
                    _print_event(record.event_log_entry)


def _print_event(entry: dg.EventLogEntry) -> None:
    """Print an event, with its error if it has one; skip Dagster's internal events."""
    event, level, text = entry.dagster_event, int(entry.level), entry.user_message
    if event is None:
        is_shown = level >= logging.INFO
    else:
        is_shown = level >= logging.ERROR or event.event_type in _SHOWN_EVENTS
    if not is_shown:
        return
    if event is not None:
        text, data = event.message or "", cast("Any", event.event_specific_data)
        # The failure of a run repeats the error of its first failed step.
        if getattr(data, "error", None) and not getattr(data, "first_step_failure_event", None):
            text += f"\n{error_text(data.error)}"
    time = datetime.datetime.fromtimestamp(entry.timestamp)
    click.echo(f"{time:%H:%M:%S}  {entry.step_key or '':<24}{text}")


def error_text(error: SerializableErrorInfo) -> str:
    """Return the message of an error that the user can correct, or the whole traceback."""
    cause: SerializableErrorInfo | None = error
    while cause is not None:
        if cause.cls_name == _CRASH:
            return _CRASH_ADVICE
        if cause.cls_name == "DagsterSubprocessError" and _CRASH in cause.message:
            return "error: the process of a step was lost, see above"
        if cause.cls_name in _PLAIN_ERRORS:
            # The message begins with the class ("module.Class: ..."), which is left out.
            return re.sub(r"^[\w.]+: ", "error: ", cause.message.strip())
        cause = cause.cause
    return error.to_string()
