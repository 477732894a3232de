"""Keeping freed memory for the next step instead of handing it back to the system."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEEP_BYTES = 2**31 - 1
_TOP_PAD_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed; return whether it did.

    Every step of training or encoding on the CPU allocates and frees the same large arrays. By
    default glibc maps each anew, and the system clears its pages at every first touch (mallopt(3)).
    It holds for the rest of the process, so only entries of long work call it; elsewhere than on
    glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {
        _M_MMAP_MAX: 0,
        _M_TRIM_THRESHOLD: _KEEP_BYTES,
        _M_TOP_PAD: _TOP_PAD_BYTES,
    }
    accepted = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(accepted)
