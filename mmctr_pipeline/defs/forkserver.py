"""The forkserver: it imports the slow modules once, and the steps of a run are forked from it."""

import multiprocessing.forkserver
import signal

from mmctr_pipeline.encoders.config import EncodersConfig


def preloaded_modules(encoders: EncodersConfig) -> list[str]:
    """Return the modules that the forkserver imports, in this order.

    None of them may initialise CUDA: processes forked after that cannot use the GPU.
    """
    modules = [
        "mmctr_pipeline.defs.orphan_watch",
        "mmctr_pipeline.defs.collector_off",
        "dagster._core.executor.multiprocess",
        "mmctr_pipeline.definitions",
        "dagster._core.storage.sqlite_storage",  # opens the run history in each step
        "mmctr_pipeline.pipeline",  # imports torch
        "mmctr_pipeline.reporting.plots",  # imports matplotlib
    ]
    if encoders.text.encodes:
        modules.append("mmctr_pipeline.encoders.text.encode")
    if encoders.image.encodes:
        modules.append("mmctr_pipeline.encoders.image.encode")
    return [*modules, "mmctr_pipeline.defs.collector_on"]


def start_forkserver(encoders: EncodersConfig) -> None:
    """Start the forkserver, without waiting for its imports. It ignores Ctrl-C."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        multiprocessing.forkserver.set_forkserver_preload(preloaded_modules(encoders))
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)
