"""Run the whole pipeline in Dagster and print its events as they are recorded."""

import contextlib
import dataclasses
import gc
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import dagster as dg
import sqlalchemy.exc
import yaml

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline.defs.config import current_deployment, deployment_preset, run_config
from mmctr_pipeline.defs.days import DAY_TAG, day_tag
from mmctr_pipeline.defs.dead_runs import end_dead_runs
from mmctr_pipeline.defs.event_printer import EventPrinter
from mmctr_pipeline.defs.launches import Launch, launched, open_instance
from mmctr_pipeline.defs.next_step import next_step
from mmctr_pipeline.defs.run_events import notify_of_failure
from mmctr_pipeline.defs.run_guard import claimed
from mmctr_pipeline.defs.stop_signals import StopSignals
from mmctr_pipeline.defs.summary import summarise
from mmctr_pipeline.defs.summary import table as summary_table
from mmctr_pipeline.environment import DeploymentError
from mmctr_pipeline.files.atomic import write_text
from mmctr_pipeline.files.errors import WriteError
from mmctr_pipeline.files.holders import Holder
from mmctr_pipeline.monitoring.notify import (
    EVENTS,
    Event,
    Notifier,
    notifier_from_environment,
    notify,
    read_events,
)
from mmctr_pipeline.preflight.check import preflight
from mmctr_pipeline.preflight.findings import table
from mmctr_pipeline.presets.preset import Preset, preset_name
from mmctr_pipeline.publishing.store import ObjectStore, PublishError
from mmctr_pipeline.settings import SettingsError

_POLL_SECONDS = 0.25

RUN_CONFIG = "run_config.yaml"
"""Name of the file in the storage folder that has the config of the last run."""

IN_USE = os.EX_TEMPFAIL
"""Exit status (75) if another run writes to the storage folder."""


def launch_pipeline(stop: StopSignals, day: str | None = None, wait: bool = False) -> int:
    """Run the pipeline for the deployment of this environment; return the exit status.

    For logs by day, the run is of `day`, by default of the preset's or the latest complete day.
    While another run writes to the storage folder, return `IN_USE`, or wait if `wait` is true.
    """
    try:
        preset, storage = deployment_preset(), current_deployment().storage_dir
        if day is not None:
            data = {**preset.data.to_mapping(), "day": day}
            preset = dataclasses.replace(preset, data=DataConfig.from_mapping(data, section="data"))
        if not _can_succeed(preset, day):
            return 2
        tags = day_tag(preset.data)
        if url := current_deployment().publish_url:
            ObjectStore(url).require_writable()
        with open_instance() as instance, launched(instance) as launch:
            with _claimed(storage, launch, wait) as other:
                if other is None:
                    return _launch(launch, run_config(preset), tags, storage, stop)
            click.echo(
                f"error: {storage} is in use by {other}. Fix: wait until it has ended, or start "
                "this with --wait (make run WAIT=1)"
            )
            return IN_USE
    except (
        *(SettingsError, DeploymentError, DataError, DataNotFoundError),
        *(WriteError, PublishError, dg.DagsterError),
    ) as error:
        click.echo(f"error: {error}")
        if isinstance(error, DataError | DataNotFoundError):
            folder = str(current_deployment().storage_dir)
            event = Event("night_blocked", str(error), day=day or "", storage=folder)
            notify(event, _notifier())
    except sqlalchemy.exc.DBAPIError as error:
        click.echo(
            f"error: Dagster cannot use its database in {os.environ['DAGSTER_HOME']}: "
            f"{error.orig}. Fix: free some space there, or set DAGSTER_HOME to another folder"
        )
    return 2


def _can_succeed(preset: Preset, day: str | None) -> bool:
    """Do the preflight; if it finds errors, print all it found and send an event."""
    findings = preflight(current_deployment(), preset)
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        if warnings := [finding for finding in findings if finding.severity == "warning"]:
            click.echo(table(warnings))
        return True
    click.echo(table(findings))
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    click.echo(
        f"{count}: nothing was started. `.venv/bin/mmctr check` shows whether a fix has helped"
    )
    headline, detail = f"preflight: {errors[0]}", "\n".join(map(str, errors))
    folder = str(current_deployment().storage_dir)
    event = Event("night_blocked", headline, detail, day=day or "", storage=folder)
    notify(event, _notifier())
    return False


@contextlib.contextmanager
def _claimed(storage: Path, launch: Launch, wait: bool) -> Iterator[Holder | None]:
    """Claim the storage folder; yield None, or the run that has it if this one must not wait."""
    is_announced = False
    while True:
        with claimed(storage, launch.id, "make run") as other:
            if other is None or not wait:
                yield other
                return
        if not is_announced:
            click.echo(f"Waiting: {storage} is in use by {other}")
            is_announced = True
        time.sleep(_POLL_SECONDS)


def _launch(
    launch: Launch, config: dict[str, Any], tags: dict[str, str], storage: Path, stop: StopSignals
) -> int:
    instance = launch.instance
    config_path = storage / RUN_CONFIG
    write_text(config_path, yaml.safe_dump(config, sort_keys=False))
    click.echo(f"Preset {preset_name(current_deployment())}; its run config is in {config_path}")
    if DAY_TAG in tags:
        click.echo(f"Day {tags[DAY_TAG]}")
    for dead in end_dead_runs(instance):
        click.echo(f"Run {dead.run.run_id} was killed; it is now recorded as failed")
    stop.before_exit = lambda: _stop(launch)
    if current_deployment().executor == "k8s":
        stop.grace_seconds = 30.0  # Dagster removes the pods.
    try:
        result = _execute(launch, config, tags, stop)
    finally:
        launch.report_end("The run was stopped.")
    if not result.success:
        if not stop.received:
            _report_failure(instance, result.run_id, storage)
        return 1
    summary = summarise(instance, result, storage)
    write_text(storage / "run_summary.json", json.dumps(summary, indent=2) + "\n")
    click.echo(summary_table(summary))
    return 0


def _report_failure(instance: dg.DagsterInstance, run_id: str, storage: Path) -> None:
    click.echo(
        f"The run failed. `make ui` shows its log, as run {run_id}. Artefacts written before the "
        "failure are kept."
    )
    click.echo(next_step(instance, run_id, storage / RUN_CONFIG))
    if run := instance.get_run_by_id(run_id):
        notify_of_failure(instance, run, _notifier())
    for event in read_events(storage):
        if event.run_id == run_id:
            click.echo(f"Recorded as {event.kind} in {storage / EVENTS}")


def _notifier() -> Notifier:
    """Return the webhook, if there is one; the terminal has what the log would get."""
    unread = logging.Logger("unread")
    unread.addHandler(logging.NullHandler())
    return notifier_from_environment(unread)


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
    gc.enable()  # `defs.run` turned it off
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
    printer = EventPrinter()
    while not is_last:
        is_last = ended.wait(_POLL_SECONDS)
        run = run or launch.run()
        if run is not None:
            recorded = launch.instance.get_records_for_run(run.run_id, cursor=cursor)
            cursor = recorded.cursor
            for record in recorded.records:
                if not stop.received:
                    printer.show(record.event_log_entry)
