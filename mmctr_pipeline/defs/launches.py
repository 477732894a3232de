"""Launches of `make run`. Each holds a lock while it lives, so the next can find dead launches."""

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.files.writable import require_writable

LAUNCH_TAG = "mmctr/launch"
"""Run tag that identifies the run of a launch. A run's id cannot do so: Dagster chooses it."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """One launch and the run that it starts."""

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
    with locked(_folder(instance) / f"{launch.id}.lock"):
        yield launch


def report_dead_launches(instance: dg.DagsterInstance) -> list[str]:
    """Report the runs of killed launches as failed; return their run ids.

    Otherwise Dagster would show them as running for ever.
    """
    dead = []
    for path in _folder(instance).glob("*.lock"):
        launch = Launch(instance, path.stem)
        with locked(path, wait=False) as is_dead:
            if is_dead and (run_id := launch.report_end("The process of this run was killed.")):
                dead.append(run_id)
    return dead


def _folder(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory) / "launches"
