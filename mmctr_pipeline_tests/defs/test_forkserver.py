"""The forkserver imports what the encoders need, does not use CUDA, and ends with its parent."""

import importlib.util
import os
import signal
import subprocess
import sys

import psutil
import pytest

from mmctr_pipeline.defs.forkserver import preloaded_modules
from mmctr_pipeline.encoders.config import EncodersConfig

TEXT, IMAGE = "mmctr_pipeline.encoders.text.encode", "mmctr_pipeline.encoders.image.encode"

# A forkserver that never finishes its imports.
FORKSERVER = """
import os
import mmctr_pipeline.defs.orphan_watch
print(os.getpid(), flush=True)
while True:
    pass
"""
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {FORKSERVER!r}])
time.sleep(60)
"""

IMPORT_WITHOUT_CUDA = """
import gc, importlib, sys
import torch

def refuse(*arguments, **options):
    raise AssertionError("CUDA was used")

torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = refuse
torch._C._cuda_getDeviceCount = refuse
for name in sys.argv[1:]:
    importlib.import_module(name)
assert gc.isenabled() and gc.get_freeze_count() > 100_000
"""


def test_encoder_libraries_are_preloaded_only_if_the_encoder_is_used() -> None:
    assert {TEXT, IMAGE} <= set(preloaded_modules(EncodersConfig()))
    given = EncodersConfig.from_mapping(
        {"text": {"source": "given", "column": "t"}, "image": {"source": "none"}}
    )
    assert not {TEXT, IMAGE} & set(preloaded_modules(given))


@pytest.mark.slow
def test_no_preloaded_module_uses_cuda_and_the_garbage_collector_runs_afterwards() -> None:
    # All modules but orphan_watch are imported: it sets an alarm in the process that imports it.
    modules = preloaded_modules(EncodersConfig())[1:]
    command = [sys.executable, "-c", IMPORT_WITHOUT_CUDA, *modules]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_a_forkserver_that_ends_prints_nothing() -> None:
    modules = ("mmctr_pipeline.defs.orphan_watch", "triton", "mmctr_pipeline.defs.collector_on")
    command = [sys.executable, "-c", "\n".join(f"import {module}" for module in modules)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_forkserver_ends_with_its_parent_even_during_its_imports() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs([child], timeout=30)
        for process in alive:
            process.kill()
        assert not alive
