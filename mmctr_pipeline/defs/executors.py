"""Executors: they distribute the steps of a run over processes. `MMCTR_EXECUTOR` chooses one."""

import logging
import multiprocessing
import multiprocessing.util
import os
from typing import Any

import dagster as dg

from mmctr_pipeline.defs.forkserver import preloaded_modules
from mmctr_pipeline.defs.run_guard import guarded
from mmctr_pipeline.encoders.config import EncodersConfig
from mmctr_pipeline.environment import DeploymentError
from mmctr_pipeline.processes import end_when_closed

GPU_TAG = "mmctr/gpu"

_GPU_LIMIT = {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}


def gpu_tags(device: str) -> dict[str, Any]:
    """Return the op tags of the assets that use a GPU. On Kubernetes their pods ask for one.

    If `device`, the value of MMCTR_DEVICE, is `cpu`, they do not, as such pods would wait for ever
    on a cluster without GPUs.
    """
    return {GPU_TAG: "true", **({} if device == "cpu" else {"dagster-k8s/config": _GPU_LIMIT})}


def set_root_log_handler() -> None:
    """Let other libraries print only warnings, as Python does without any configuration.

    If the root logger has no handler, `logging.info`, which open_clip calls, adds one that prints
    everything. Then the lines that Dagster prints for this package would appear twice.
    """
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setLevel(logging.WARNING)
        handler.addFilter(lambda record: not record.name.startswith("mmctr_pipeline"))
        root.addHandler(handler)


def end_steps_with_run() -> None:
    """Let each step's process end when the process of its run dies.

    Call this in the forkserver, which ends by itself when no process can use it any more.
    """
    multiprocessing.util.register_after_fork(_end_with_parent, lambda end: end())


def _end_with_parent() -> None:
    # For a process forked by the forkserver, this is the process that requested it.
    parent = multiprocessing.parent_process()
    if parent is not None:
        end_when_closed(parent.sentinel)
        # Ctrl-C signals the whole process group of the run. A step leaves this group, so that the
        # run alone decides when the step ends.
        os.setpgid(0, 0)


_ONE_GPU_STEP = {"tag_concurrency_limits": [{"key": GPU_TAG, "limit": 1}]}


def executor(name: str, encoders: EncodersConfig) -> dg.ExecutorDefinition:
    """Return the executor named `multiprocess`, `in_process` or `k8s`.

    `multiprocess` runs each step in its own process, and one GPU step at a time. The forkserver of
    these processes imports the libraries that `encoders` need. Each executor lets one run at a time
    write to the storage folder. Raises `DeploymentError` if `k8s` is asked for and the package
    dagster-k8s is not installed.
    """
    return guarded(_executor(name, encoders))


def _executor(name: str, encoders: EncodersConfig) -> dg.ExecutorDefinition:
    if name == "in_process":
        return dg.in_process_executor
    if name == "k8s":
        try:
            from dagster_k8s import k8s_job_executor
        except ImportError as error:
            raise DeploymentError(
                "MMCTR_EXECUTOR is 'k8s' but dagster-k8s is not installed: install the extra k8s"
            ) from error
        return k8s_job_executor.configured(_ONE_GPU_STEP, name="k8s_gpu")
    # A forkserver imports the slow modules only once and, unlike fork, copies no threads.
    start_method = {"forkserver": {"preload_modules": preloaded_modules(encoders)}}
    return dg.multiprocess_executor.configured(
        {**_ONE_GPU_STEP, "start_method": start_method}, name="multiprocess_gpu"
    )
