"""End the forkserver when its parent dies, even while it imports modules.

Python's forkserver notices the death of its parent only while it waits for work. Importing this
module starts a timer that checks whether the parent still lives, so only the forkserver may import
the module. Processes forked from the forkserver do not inherit the timer.
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
