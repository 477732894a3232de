"""How the steps of a run are spread over processes; `MMCTR_EXECUTOR` chooses."""

import dagster as dg

from mmctr_pipeline.environment import DeploymentError

GPU_TAG = "mmctr/gpu"

GPU_TAGS = {
    GPU_TAG: "true",
    "dagster-k8s/config": {
        "container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
    },
}
"""Op tags of the assets that want the GPU."""

PRELOADED = ["mmctr_pipeline.definitions", "dagster._core.storage.sqlite_storage", "torch"]
"""Modules imported once for all steps; the second is what a step opens the run history with.

None of them may touch CUDA: a child of a process that did cannot use the GPU.
"""

multiprocess_gpu = dg.multiprocess_executor.configured(
    {
        "tag_concurrency_limits": [{"key": GPU_TAG, "limit": 1}],
        # A forkserver imports the slow modules once, and unlike fork it copies no threads.
        "start_method": {"forkserver": {"preload_modules": PRELOADED}},
    },
    name="multiprocess_gpu",
)
"""One process per step, one GPU step at a time in a run."""


def executor(name: str) -> dg.ExecutorDefinition:
    """Return the executor named `multiprocess`, `in_process` or `k8s`.

    Raises `DeploymentError` where `k8s` is asked for without the dagster-k8s package.
    """
    if name == "in_process":
        return dg.in_process_executor
    if name == "k8s":
        try:
            from dagster_k8s import k8s_job_executor  # type: ignore[import-not-found]
        except ImportError as error:
            raise DeploymentError(
                "MMCTR_EXECUTOR is 'k8s' but dagster-k8s is not installed: pip install dagster-k8s"
            ) from error
        return k8s_job_executor.configured(
            {"tag_concurrency_limits": [{"key": GPU_TAG, "limit": 1}]}, name="k8s_gpu"
        )
    return multiprocess_gpu
