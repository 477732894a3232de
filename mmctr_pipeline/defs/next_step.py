"""The advice that a failed run prints: which command to run next."""

import os
import shlex
import sys
from pathlib import Path

import dagster as dg

from mmctr_pipeline import advice
from mmctr_pipeline.defs.run_events import CHECK_FAILED, causes, events_of
from mmctr_pipeline.environment import VARIABLES

_RUN_AGAIN = (
    "Fix what the error names, then run the same command again: it encodes only what is missing"
)
_AS_IT_WAS = {"WriteError"}
"""Errors whose fix leaves data and settings as they were."""

_SECRET = "MMCTR_NOTIFY_URL"


def next_step(instance: dg.DagsterInstance, run_id: str, config: Path) -> str:
    """Return what to do after a failed run.

    If data or settings have to be changed, all assets must be made again from them. Otherwise a
    command is enough that starts at the assets that failed.

    Parameters
    ----------
    instance
        The instance that has the run.
    run_id
        The failed run.
    config
        The file of the run's config.
    """
    assets = set()
    for event in events_of(instance, run_id, dg.DagsterEventType.STEP_FAILURE):
        assets.add(str(event.step_key).removesuffix("_checks"))
        names = {cause.cls_name for cause in causes(event.step_failure_data.error)}
        if names & ({*advice.NAMES, CHECK_FAILED} - _AS_IT_WAS):
            return _RUN_AGAIN
    # `source_checks`, and `observe_...`: nothing has been made yet.
    if not assets or any(name.startswith(("source", "observe")) for name in assets):
        return _RUN_AGAIN
    selection = ",".join(f"{name}+" for name in sorted(assets))
    command = [
        *(str(Path(sys.executable).with_name("dagster")), "asset", "materialize"),
        *("--select", selection, "-m", "mmctr_pipeline.definitions", "-c", str(config)),
    ]
    return (
        "Once the cause is fixed, run the same command again, or only what is left:\n  "
        f"{_variables()} {shlex.join(command)}"
    )


def _variables() -> str:
    """Return the environment of this run for a command line, without what may be a secret."""
    names = [name for name in VARIABLES if os.environ.get(name) and name != _SECRET]
    # Empty counts as unset: `make demo` ignores the variable of the shell.
    pairs = {"DAGSTER_HOME": "", "MMCTR_DATA_DIR": "", **dict.fromkeys(names, "")}
    return " ".join(f"{name}={shlex.quote(os.environ.get(name, ''))}" for name in pairs)
