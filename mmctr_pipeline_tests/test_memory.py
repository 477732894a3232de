"""Freed memory stays in the process, so that later large arrays can reuse it."""

import json
import platform
import subprocess
import sys

import pytest

from mmctr_pipeline.memory import keep_freed_memory

FAULTS = """
import json, resource
import numpy as np
from mmctr_pipeline.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(64 << 17)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
kept = keep_freed_memory()
np.ones(64 << 17)
print(json.dumps([before, kept, faults()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_arrays_reuse_the_pages_of_earlier_ones() -> None:
    result = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    before, kept, after = json.loads(result.stdout)
    assert kept
    # Ten arrays of 64 MB have 163,840 pages of 4 KB; with larger pages, there are fewer.
    assert before > 200
    assert after < before / 20


@pytest.mark.skipif(platform.libc_ver()[0] == "glibc", reason="for machines without glibc")
def test_without_glibc_nothing_is_done() -> None:
    assert not keep_freed_memory()
