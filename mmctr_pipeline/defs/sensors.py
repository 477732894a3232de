"""Sensors of the daemon: they report failed runs and end dead ones."""

import dagster as dg

from mmctr_pipeline.defs.config import current_deployment
from mmctr_pipeline.defs.dead_runs import end_dead_runs
from mmctr_pipeline.defs.run_events import notify_of_failure
from mmctr_pipeline.monitoring.notify import notifier_from_environment


@dg.run_failure_sensor(
    # Otherwise runs of the command line, which belong to no code location, would be left out.
    monitor_all_code_locations=True,
    default_status=dg.DefaultSensorStatus.RUNNING
    if current_deployment().nightly
    else dg.DefaultSensorStatus.STOPPED,
    description="Sends the event of each failed run, unless it was sent before: to the log, or to "
    "MMCTR_NOTIFY_URL. Running by default if MMCTR_NIGHTLY is set.",
)
def failed_runs(context: dg.RunFailureSensorContext) -> None:
    """Send the event of a failed run."""
    notify_of_failure(context.instance, context.dagster_run, notifier_from_environment(context.log))


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Records runs as failed whose process has ended, and frees their pool slots, as "
    "`mmctr reap` does.",
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """End dead runs."""
    notifier = notifier_from_environment(context.log)
    dead = end_dead_runs(context.instance, notifier=notifier)
    if not dead:
        return dg.SkipReason("no dead runs found")
    return dg.SkipReason("; ".join(f"{run.label}: {run.reason}" for run in dead))
