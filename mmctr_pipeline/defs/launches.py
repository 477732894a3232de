"""Locks that show which runs live, and the Dagster instance that all runs of a home share.

Each process that executes a run holds a lock while it lives. The operating system frees it when the
process dies, so that other processes can tell dead runs from live ones.
"""

import contextlib
import dataclasses
import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from mmctr_pipeline.files.errors import WriteError
from mmctr_pipeline.files.holders import Holder, held
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.files.writable import require_writable

LAUNCH_TAG = "mmctr/launch"
"""Run tag that identifies the run of a launch. A run's id cannot do so: Dagster chooses it."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Launch:
    """One launch of `make run` and the run that it starts."""

    instance: dg.DagsterInstance
    id: str

    @property
    def tags(self) -> dict[str, str]:
        """Tags for the run."""
        return {LAUNCH_TAG: self.id}

    def run(self) -> dg.DagsterRun | None:
        """Return the run, or None before Dagster has recorded it."""
        runs = self.instance.get_runs(dg.RunsFilter(tags=self.tags), limit=1)
        return runs[0] if runs else None

    def report_end(self, reason: str) -> str | None:
        """If the end of the run is not recorded, report the run as failed and return its id."""
        run = self.run()
        if run is None or run.is_finished:
            return None
        self.instance.report_run_failed(run, reason)
        return run.run_id


def open_instance() -> dg.DagsterInstance:
    """Open the Dagster instance of DAGSTER_HOME.

    Processes take turns, because creating Dagster's database fails if two do it at once. Raises
    `WriteError` if the folder cannot be written to.
    """
    home = os.environ.get("DAGSTER_HOME")
    if not home or not os.path.isabs(home):
        return dg.DagsterInstance.get()  # Dagster's error names the variable.
    require_writable(Path(home), "DAGSTER_HOME")
    with locked(Path(home) / ".opening.lock"):
        return dg.DagsterInstance.get()


@contextlib.contextmanager
def launched(instance: dg.DagsterInstance) -> Iterator[Launch]:
    """Yield a new launch, and hold its lock until the block ends."""
    launch = Launch(instance, uuid.uuid4().hex)
    with held(lock_path(instance, launch.id), Holder.this_process(launch.id, "make run")):
        yield launch


@contextlib.contextmanager
def executing(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[None]:
    """Hold the lock of a run until the block ends. Log a warning if it cannot be created."""
    holder = Holder.this_process(run.run_id, run_label(run))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(lock_path(instance, run.run_id), holder))
        except WriteError as error:
            logger.warning("if this run is killed, nothing will notice it: %s", error)
        yield


def lock_path(instance: dg.DagsterInstance, name: str) -> Path:
    """Return the lock file of the run, or of the launch, with this id."""
    return lock_folder(instance) / f"{name}.lock"


def lock_folder(instance: dg.DagsterInstance) -> Path:
    """Return the folder of the lock files of all runs and launches."""
    return Path(instance.root_directory) / "launches"


def run_label(run: dg.DagsterRun) -> str:
    """Return how messages name a run: by its id and what it does."""
    what = run.job_name
    if LAUNCH_TAG in run.tags:
        what = "make run"
    elif what.startswith("__"):  # a job that Dagster made for a selection of assets
        what = ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
    return f"run {run.run_id} ({what or 'assets'})"
