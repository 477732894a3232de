"""End a forkserver whose parent dies, also while it imports: importing this module does it.

Python's forkserver notices the end of its parent only when it waits for work. Nothing else may
import this module. Processes forked later have no timer.
"""

import os
import signal
from types import FrameType

_POLL_SECONDS = 0.5
_PARENT = os.getppid()


def _end_if_orphaned(number: int, frame: FrameType | None) -> None:
    if os.getppid() != _PARENT:
        os._exit(1)


signal.signal(signal.SIGALRM, _end_if_orphaned)
signal.setitimer(signal.ITIMER_REAL, _POLL_SECONDS, _POLL_SECONDS)
