"""Locks between processes that the operating system frees when their holder dies."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold a lock (`flock`) on the file `path`, which is made, with its folder, where needed.

    Any number of `shared` holders may hold it at once, or one that is not. Yields whether it is
    held: without `wait`, False where that would mean waiting for another. A holder that is not
    shared removes the file when done.
    """
    descriptor = _acquire(path, shared=shared, wait=wait)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        if not shared:
            path.unlink(missing_ok=True)
        # Closing alone would leave it to a child process that was forked meanwhile.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _acquire(path: Path, *, shared: bool, wait: bool) -> int | None:
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:
            # Someone removed the empty folder at this moment.
            continue
        try:
            fcntl.flock(descriptor, mode)
            # The holder before may have removed the file while this one waited for it.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
