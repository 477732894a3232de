"""Find the run that keeps the next night from starting."""

from pathlib import Path

import dagster as dg

from mmctr_pipeline.defs.dead_runs import unfinished_runs
from mmctr_pipeline.defs.jobs import observe_sources
from mmctr_pipeline.defs.launches import run_label
from mmctr_pipeline.defs.run_guard import STORAGE_TAG, storage_user


def active_run(
    instance: dg.DagsterInstance, storage: Path, count_observers: bool = False
) -> str | None:
    """Return a description of a run that writes, or is about to write, to a storage folder.

    The lock of the folder shows a run that writes, of whatever Dagster home. Runs that have not
    claimed the folder yet are known only if they belong to this instance.

    Parameters
    ----------
    instance
        The instance.
    storage
        The folder.
    count_observers
        Whether runs count that only observe sources or check artefacts.
    """
    if user := storage_user(storage):
        return str(user)
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
        if _counts(run, storage, count_observers):
            return f"{run_label(run)}, which is queued"
    for each in unfinished_runs(instance):
        # A run that was only created may never start, and a live one that has not claimed the
        # folder does not write to it.
        is_created_only = each.run.status is dg.DagsterRunStatus.NOT_STARTED
        is_observer = bool(each.alive) and STORAGE_TAG not in each.run.tags
        if is_created_only or (is_observer and not count_observers):
            continue
        if _counts(each.run, storage, count_observers):
            advice = "" if each.alive else "; if it is dead, end it with `mmctr reap --minutes 60`"
            return f"{each.label}: {each.reason}{advice}"
    return None


def _counts(run: dg.DagsterRun, storage: Path, count_observers: bool) -> bool:
    is_elsewhere = run.tags.get(STORAGE_TAG, str(storage)) != str(storage)
    return not is_elsewhere and (count_observers or run.job_name != observe_sources.name)
