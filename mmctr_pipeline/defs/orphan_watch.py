"""End the forkserver at once when its parent ends, even while it imports modules.

Python's forkserver notices the end of its parent only while it waits for work. Importing this
module starts a timer that checks whether the parent still lives, so only the forkserver may import
the module. Processes forked from the forkserver do not inherit the timer.

The forkserver does not clean up as it ends: Triton's bindings would take what `collector_on` froze
for leaks and list it in the terminal. Its exit status, which nobody reads, is always 0. This is the
first module to import, as the exit handler registered first runs last.
"""

import atexit
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
atexit.register(os._exit, 0)
