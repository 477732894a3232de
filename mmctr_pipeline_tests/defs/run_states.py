"""Runs in the states that other processes leave them in: queued, or killed."""

import subprocess
import sys

import dagster as dg
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test

from mmctr_pipeline.defs.launches import lock_path

_HOLD_AND_DIE = """
import os, signal, sys
from pathlib import Path
from mmctr_pipeline.files.holders import Holder, held
with held(Path(sys.argv[1]), Holder.this_process(sys.argv[2], "run")):
    os.kill(os.getpid(), signal.SIGKILL)
"""

LAUNCHED = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("mmctr_pipeline"), "__repository__"),
    "train",
)
"""Origin of the runs that the daemon starts; those of the command line have none."""


def run_in_state(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, job: str = "train", **tags: str
) -> dg.DagsterRun:
    """Record a run as the daemon would have left it."""
    return create_run_for_test(
        instance, job_name=job, status=status, tags=tags, remote_job_origin=LAUNCHED
    )


def killed_run(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    tags: dict[str, str] | None = None,
    lock: str | None = None,
) -> dg.DagsterRun:
    """Record a run whose process was killed while it held the run's lock, or the lock `lock`."""
    run = create_run_for_test(instance, job_name="train", status=status, tags=tags)
    path = lock_path(instance, lock or run.run_id)
    subprocess.run([sys.executable, "-c", _HOLD_AND_DIE, str(path), run.run_id], check=False)
    assert path.exists()
    return run
