"""Executors, chosen by `MMCTR_EXECUTOR`: how the steps of a run are spread over processes."""

import logging
import multiprocessing
import multiprocessing.util
import os

import dagster as dg

from mmctr_pipeline.defs.forkserver import preloaded_modules
from mmctr_pipeline.encoders.config import EncodersConfig
from mmctr_pipeline.environment import DeploymentError
from mmctr_pipeline.processes import end_when_closed

GPU_TAG = "mmctr/gpu"

GPU_TAGS = {
    GPU_TAG: "true",
    "dagster-k8s/config": {
        "container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
    },
}
"""Op tags of the assets that use a GPU."""


def set_root_log_handler() -> None:
    """Send only warnings of other libraries to stderr, as Python does without any configuration.

    open_clip logs through `logging.info`, which gives a root logger without handlers one that
    prints everything, so that our lines would appear a second time beside Dagster's.
    """
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setLevel(logging.WARNING)
        handler.addFilter(lambda record: not record.name.startswith("mmctr_pipeline"))
        root.addHandler(handler)


def end_steps_with_run() -> None:
    """Let each step's process end when the process of its run dies, and only then.

    Call this in the forkserver. It ends by itself with the last process that may use it.
    """
    multiprocessing.util.register_after_fork(_end_with_parent, lambda end: end())


def _end_with_parent() -> None:
    # Of a process from the forkserver, the parent is the one that asked for it.
    parent = multiprocessing.parent_process()
    if parent is not None:
        end_when_closed(parent.sentinel)
        # Ctrl-C in a terminal goes to a group of processes: to the run, which ends its steps.
        os.setpgid(0, 0)


_ONE_GPU_STEP = {"tag_concurrency_limits": [{"key": GPU_TAG, "limit": 1}]}


def executor(name: str, encoders: EncodersConfig) -> dg.ExecutorDefinition:
    """Return the executor named `multiprocess`, `in_process` or `k8s`.

    `multiprocess` runs each step in its own process, one GPU step at a time in a run; their
    forkserver imports the libraries of `encoders`. Raises `DeploymentError` for `k8s` without the
    dagster-k8s package.
    """
    if name == "in_process":
        return dg.in_process_executor
    if name == "k8s":
        try:
            from dagster_k8s import k8s_job_executor
        except ImportError as error:
            raise DeploymentError(
                "MMCTR_EXECUTOR is 'k8s' but dagster-k8s is not installed: pip install dagster-k8s"
            ) from error
        return k8s_job_executor.configured(_ONE_GPU_STEP, name="k8s_gpu")
    # A forkserver imports the slow modules once and, unlike fork, copies no threads.
    start_method = {"forkserver": {"preload_modules": preloaded_modules(encoders)}}
    return dg.multiprocess_executor.configured(
        {**_ONE_GPU_STEP, "start_method": start_method}, name="multiprocess_gpu"
    )
