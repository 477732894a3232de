"""The nightly schedule: it runs the whole pipeline if its inputs have changed.

It is running by default if MMCTR_NIGHTLY is "cron"; `defs/automation.py` is the alternative.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus

from mmctr_pipeline.defs.active_runs import active_run
from mmctr_pipeline.defs.config import current_deployment, deployment_preset, nightly_cron
from mmctr_pipeline.defs.days import report_late_day
from mmctr_pipeline.defs.dead_runs import end_dead_runs
from mmctr_pipeline.defs.jobs import full_pipeline
from mmctr_pipeline.defs.run_guard import STORAGE_TAG
from mmctr_pipeline.monitoring.notify import notifier_from_environment

STAMP_TAG = "mmctr/input_stamp"
"""Run tag with the stamp of the inputs that a scheduled run started from."""

CHANGES_SENSOR = "nightly_if_changed"
"""Name of the sensor that is the alternative to the schedule."""


@dg.schedule(
    job=full_pipeline,
    cron_schedule=nightly_cron(),
    execution_timezone=current_deployment().timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING
    if current_deployment().nightly == "cron"
    else dg.DefaultScheduleStatus.STOPPED,
    description="The whole pipeline at MMCTR_CRON (default 02:00), if data or preset changed, the "
    "newest day is not half written, and no run writes to the storage folder. Running by default "
    "if MMCTR_NIGHTLY is cron.",
)
def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Request a run, or say why there is none this night."""
    storage = current_deployment().storage_dir
    end_dead_runs(context.instance, notifier=notifier_from_environment(context.log))
    if _is_alternative_running(context.instance):
        return dg.SkipReason(
            f"the sensor {CHANGES_SENSOR} is running, and only one of the two starts runs: stop "
            "one of them"
        )
    if active := active_run(context.instance, storage):
        return dg.SkipReason(f"{storage} is in use by {active}")
    late = report_late_day(deployment_preset().data, context.log)
    if late and late.is_half_written:
        return dg.SkipReason(late.reason)
    stamp = input_stamp()
    latest = context.instance.get_runs(
        dg.RunsFilter(
            job_name=full_pipeline.name,
            statuses=[dg.DagsterRunStatus.SUCCESS],
            tags={"dagster/schedule_name": "nightly"},
        ),
        limit=1,
    )
    if latest and latest[0].tags.get(STAMP_TAG) == stamp:
        return dg.SkipReason(
            f"data and preset have not changed since run {latest[0].run_id}, which succeeded"
        )
    return dg.RunRequest(tags={STAMP_TAG: stamp, STORAGE_TAG: str(storage)})


def _is_alternative_running(instance: dg.DagsterInstance) -> bool:
    """Return whether someone has started the sensor; it exists only if MMCTR_NIGHTLY is unset."""
    if current_deployment().nightly is not None:
        return False
    running = instance.all_instigator_state(instigator_statuses={InstigatorStatus.RUNNING})
    return any(state.name == CHANGES_SENSOR for state in running)


def input_stamp() -> str:
    """Return a hash of a run's inputs: the preset, and names, sizes and times of the data files.

    Unlike the fingerprints of the source assets, it does not hash the contents of files. No file is
    opened, so the schedule can compute the stamp at each tick.
    """
    digest = hashlib.sha256(json.dumps(deployment_preset().to_mapping(), sort_keys=True).encode())
    data_dir = current_deployment().data_dir
    for entry in _entries(data_dir) if data_dir is not None else ():
        digest.update(entry.encode())
    return digest.hexdigest()[:16]


def _entries(folder: Path) -> Iterator[str]:
    # Links to folders are not followed, as they may lead in circles or out of the data folder. If
    # a link leads to a folder within the data folder, its files are listed at their real place.
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            try:
                status = path.stat()
                stamp = f"{status.st_size}\0{status.st_mtime_ns}"
            except OSError:
                # A broken link is not an error here: the run counts it as an unreadable image.
                stamp = "unreadable"
            yield f"{path.relative_to(folder)}\0{stamp}\n"
