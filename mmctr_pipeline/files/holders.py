"""Locks whose file says who holds them, so that others can name the holder."""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from mmctr_pipeline.files.locks import locked

_TRIES, _PAUSE_SECONDS = 5, 0.05
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    `key` identifies what the process works on, and `label` names it for people. `since` is the
    local time with its offset from UTC. `boot` identifies the running kernel, which the containers
    of a machine share; it is empty where the system does not tell.
    """

    key: str
    label: str
    since: str
    process: int
    host: str
    boot: str

    @classmethod
    def this_process(cls, key: str, label: str) -> Self:
        """Describe this process, from now on."""
        now = datetime.datetime.now().astimezone()
        host, boot = _this_machine()
        return cls(key, label, now.isoformat(" ", "seconds"), os.getpid(), host, boot)

    @property
    def is_on_this_machine(self) -> bool:
        """True if the holder ran on this machine. A free lock then means that it has ended.

        Not every file system shares locks between machines.
        """
        host, boot = _this_machine()
        return self.host == host or bool(boot and self.boot == boot)

    def __str__(self) -> str:
        if not self.process:
            return self.label
        return f"{self.label}, since {self.since}, process {self.process} on {self.host}"


UNKNOWN = Holder("", "an unknown process", "", 0, "", "")


@contextlib.contextmanager
def held(path: Path, holder: Holder) -> Iterator[Holder | None]:
    """Hold the lock `path` as `holder` until the block ends; yield None.

    If another process holds it, yield that holder at once. Errors as in `locked`.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(_TRIES):  # `holder_of` takes the lock for a moment
            if stack.enter_context(locked(path, wait=False)):
                describe(path, holder)
                yield None
                return
            time.sleep(_PAUSE_SECONDS)
    yield recorded_holder(path) or UNKNOWN


def describe(path: Path, holder: Holder) -> None:
    """Write into the lock file `path`, whose lock this process holds, who holds it."""
    # Not written atomically: another file in its place would not be locked.
    path.write_text(json.dumps(dataclasses.asdict(holder)), encoding="utf-8")


def holder_of(path: Path) -> Holder | None:
    """Return who holds the lock `path`; None if nobody does."""
    if not path.exists():
        return None
    with locked(path, shared=True, wait=False) as is_free:
        return None if is_free else recorded_holder(path) or UNKNOWN


def recorded_holder(path: Path) -> Holder | None:
    """Return who held the lock `path` last, whether or not it is free; None if that is unknown."""
    for _ in range(_TRIES):  # the holder may be writing the file
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Holder(**json.loads(path.read_text(encoding="utf-8")))
        time.sleep(_PAUSE_SECONDS)
    return None


@functools.cache
def _this_machine() -> tuple[str, str]:
    boot = ""
    with contextlib.suppress(OSError):
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    return socket.gethostname(), boot
