"""Find runs that Dagster believes to be alive although their process has ended, and end them.

By itself, Dagster notices only the death of a run whose server still lives. Any other killed run
would be shown as running for ever and keep its pool slots.
"""

import dataclasses
import time
from collections.abc import Iterator

import dagster as dg
from dagster._core.launcher import WorkerStatus

from mmctr_pipeline.defs.launches import LAUNCH_TAG, lock_folder, lock_path, run_label
from mmctr_pipeline.defs.run_events import notify_of_failure
from mmctr_pipeline.files.holders import UNKNOWN, Holder, holder_of, recorded_holder
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.monitoring.notify import Notifier

UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""Statuses of runs that have, or had, a process. Queued runs have none yet."""


@dataclasses.dataclass(frozen=True)
class Liveness:
    """An unfinished run. `alive` tells if its process lives, None if unknown; `reason` says why."""

    run: dg.DagsterRun
    alive: bool | None
    reason: str

    @property
    def label(self) -> str:
        """The run's name for people, with the status that Dagster shows."""
        return f"{run_label(self.run)}, {self.run.status.value}"


def unfinished_runs(
    instance: dg.DagsterInstance, silent_minutes: float | None = None
) -> list[Liveness]:
    """Return all unfinished runs of an instance, oldest first, and whether their process lives.

    Parameters
    ----------
    instance
        The instance.
    silent_minutes
        Count a run as dead if it has no lock and no event for this long. By default it is unknown
        whether such a run lives.
    """
    records = instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED), ascending=True)
    found = []
    for record in records:
        run = record.dagster_run
        liveness = _by_lock(instance, run) or _by_launcher(instance, run)
        if liveness is None:
            last = _last_event(instance, run) or record.create_timestamp.timestamp()
            liveness = _by_silence(run, (time.time() - last) / 60, silent_minutes)
        found.append(liveness)
    return found


def end_dead_runs(
    instance: dg.DagsterInstance,
    silent_minutes: float | None = None,
    notifier: Notifier | None = None,
) -> list[Liveness]:
    """Record dead runs as failed, free their pool slots, and return them. Live runs are left alone.

    Each gets its event. A run that was being cancelled is recorded as cancelled, without an event.

    Parameters
    ----------
    instance, silent_minutes
        As in `unfinished_runs`.
    notifier
        By default that of the environment.
    """
    with locked(lock_folder(instance) / ".ending"):  # each dead run is reported once
        dead = [run for run in unfinished_runs(instance, silent_minutes) if run.alive is False]
        for liveness in dead:
            message = f"The process of this run was lost: {liveness.reason}."
            if liveness.run.status is dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(liveness.run, message)
            else:
                instance.report_run_failed(liveness.run, message)
            instance.event_log_storage.free_concurrency_slots_for_run(liveness.run.run_id)
        _remove_free_locks(instance)
    for liveness in dead:
        if liveness.run.status is not dg.DagsterRunStatus.CANCELING:
            notify_of_failure(instance, liveness.run, notifier)
    return dead


def _by_lock(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Liveness | None:
    holders = list(_holders(instance, run))
    for holder, is_alive in holders:
        if is_alive:
            where = f"process {holder.process} on {holder.host}"
            return Liveness(run, True, f"{where} has worked on it since {holder.since}")
    for holder, _ in holders:
        if holder.is_on_this_machine:
            return Liveness(run, False, f"process {holder.process} on {holder.host} has ended")
    return None


def _holders(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[tuple[Holder, bool]]:
    """Yield the last holders of the run's locks, and whether they still hold them."""
    for name in (run.run_id, run.tags.get(LAUNCH_TAG)):
        path = lock_path(instance, name) if name else None
        if path is not None and path.exists():
            holder = holder_of(path)
            yield holder or recorded_holder(path) or UNKNOWN, holder is not None


def _by_launcher(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Liveness | None:
    """Ask the launcher about a run that it has started; not all launchers know."""
    launcher = instance.run_launcher
    is_launched = run.remote_job_origin is not None and run.status is dg.DagsterRunStatus.STARTED
    if not is_launched or not launcher.supports_check_run_worker_health:
        return None
    status = launcher.check_run_worker_health(run).status
    if status in (WorkerStatus.UNKNOWN, WorkerStatus.SUCCESS):
        return None  # after a success, the end of the run may be recorded at this moment
    is_alive = status is WorkerStatus.RUNNING
    return Liveness(run, is_alive, f"the launcher reports its worker as {status.value}")


def _by_silence(run: dg.DagsterRun, minutes: float, limit: float | None) -> Liveness:
    reason = f"it holds no lock here, and its last event is {minutes:,.0f} minutes old"
    return Liveness(run, False if limit is not None and minutes >= limit else None, reason)


def _last_event(instance: dg.DagsterInstance, run: dg.DagsterRun) -> float | None:
    records = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    return records[0].event_log_entry.timestamp if records else None


def _remove_free_locks(instance: dg.DagsterInstance) -> None:
    """Remove the lock files of killed processes of this machine."""
    for path in lock_folder(instance).glob("*.lock"):
        holder = recorded_holder(path)
        if holder is None or holder.is_on_this_machine:
            with locked(path, wait=False):
                pass  # an exclusive holder removes the file
