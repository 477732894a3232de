"""Let one run at a time write to a storage folder.

Two runs at once would mix their artefacts: one would train on the dataset that the other has just
written. Every run that materialises an asset holds the lock of its storage folder, however it was
started, and a later run waits until the lock is free. `make run` and the schedule look at the lock
first and do not start (`defs/launch.py`, `defs/schedules.py`).

The lock does not cover runs of other machines on a disk that does not share locks, steps on
Kubernetes that outlive the pod of their run, and code without this executor: notebooks,
`dagster.materialize` and `execute_in_process`.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import dagster as dg
from dagster._core.errors import raise_execution_interrupts

from mmctr_pipeline.defs.config import current_deployment
from mmctr_pipeline.defs.launches import LAUNCH_TAG, executing, run_label
from mmctr_pipeline.files.holders import Holder, describe, held, holder_of

STORAGE_TAG = "mmctr/storage"
"""Run tag with the storage folder that a run writes to."""

_POLL_SECONDS = 1.0


def storage_lock(storage: Path) -> Path:
    """Return the lock file of a storage folder."""
    return storage / ".run.lock"


def storage_user(storage: Path) -> Holder | None:
    """Return the run that writes to a storage folder, or None."""
    return holder_of(storage_lock(storage))


@contextlib.contextmanager
def claimed(storage: Path, key: str, label: str) -> Iterator[Holder | None]:
    """Claim a storage folder until the block ends; yield None, or the run that has it already.

    Parameters
    ----------
    storage
        The folder.
    key, label
        Id of the run or launch that claims it, and its name for people.
    """
    with held(storage_lock(storage), Holder.this_process(key, label)) as other:
        yield other


def guarded(inner: dg.ExecutorDefinition) -> dg.ExecutorDefinition:
    """Return the executor `inner`, whose runs wait until no other run writes to their storage."""
    create = inner.executor_creation_fn
    assert create is not None
    return dg.ExecutorDefinition(
        name=inner.name,
        config_schema=cast(Any, inner.config_schema),
        requirements=inner.get_requirements,
        executor_creation_fn=lambda context: _GuardedExecutor(create(context)),
        description=inner.description,
    )


class _GuardedExecutor(dg.Executor):
    def __init__(self, inner: dg.Executor) -> None:
        self._inner = inner

    @property
    def retries(self) -> Any:
        return self._inner.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._inner.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        run, instance = plan_context.dagster_run, plan_context.instance
        storage = current_deployment().storage_dir
        with executing(instance, run):
            if not _materialises(execution_plan):
                yield from self._inner.execute(plan_context, execution_plan)
                return
            instance.add_run_tags(run.run_id, {STORAGE_TAG: str(storage)})
            is_announced = False
            while True:
                with claimed(storage, run.run_id, run_label(run)) as other:
                    if other is None or _is_own_launch(other, run):
                        if other:
                            own = Holder.this_process(other.key, run_label(run))
                            describe(storage_lock(storage), own)
                        yield from self._inner.execute(plan_context, execution_plan)
                        return
                if not is_announced:
                    plan_context.log.info(f"Waiting: {storage} is in use by {other}")
                    is_announced = True
                with raise_execution_interrupts():
                    time.sleep(_POLL_SECONDS)


def _is_own_launch(holder: Holder, run: dg.DagsterRun) -> bool:
    """Return whether the holder is the `make run` that executes this run in the same process."""
    return holder.key == run.tags.get(LAUNCH_TAG) and holder.process == os.getpid()


def _materialises(plan: Any) -> bool:
    """Return whether an execution plan writes assets, rather than only observe or check them."""
    return any(
        output.properties.asset_execution_type is not None
        and output.properties.asset_execution_type.name == "MATERIALIZATION"
        for key in plan.step_keys_to_execute
        for output in plan.get_step_by_key(key).step_outputs
    )
