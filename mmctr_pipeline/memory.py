"""The memory of the machine, and an allocator that reuses freed memory."""

import ctypes
import functools
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MALLOC_OPTIONS = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 << 20}


def keep_freed_memory() -> bool:
    """Make glibc's allocator keep freed memory; return whether that worked.

    Each step of training or encoding on a CPU allocates and frees the same large arrays. By default
    glibc asks the system for new memory for each of these arrays, and the system clears every page
    when it is first used (mallopt(3)). The setting lasts for the rest of the process, so only entry
    points of long work call this function. Without glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    accepted = [mallopt(name, value) == 1 for name, value in _MALLOC_OPTIONS.items()]
    return all(accepted)


@functools.cache
def machine_memory() -> int:
    """Return the bytes of memory of the machine, or of the container if that has fewer."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
