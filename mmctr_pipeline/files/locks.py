"""Locks between processes; the operating system releases them when their holder dies."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from mmctr_pipeline.files.errors import naming_write_errors


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold a lock (`flock`) on the file `path`; yield whether it is held.

    The file and its folder are created. An exclusive holder removes the file when done. Raises
    `WriteError` if the file cannot be created or the disk offers no locks.

    Parameters
    ----------
    path
        The lock file.
    shared
        Whether other shared holders may hold the lock at the same time. Otherwise it is exclusive.
    wait
        Whether to wait for other holders. Otherwise yield False if the lock is taken.
    """
    with naming_write_errors(path):
        descriptor = _acquire(path, shared=shared, wait=wait)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        if not shared:
            with contextlib.suppress(OSError):  # a file that stays is harmless
                path.unlink()
        # Closing alone is not enough: a child process forked meanwhile would keep the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _acquire(path: Path, *, shared: bool, wait: bool) -> int | None:
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:
            continue  # Another process removed the empty folder just now.
        is_held = False
        try:
            fcntl.flock(descriptor, mode)
            # The previous holder may have removed the file while this process waited for the lock.
            with contextlib.suppress(FileNotFoundError):
                is_held = os.path.samestat(os.fstat(descriptor), os.stat(path))
            if is_held:
                return descriptor
        except BlockingIOError:
            return None
        finally:
            if not is_held:
                os.close(descriptor)
