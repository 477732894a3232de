"""Let a child process end when its parent ends, even if the parent is killed."""

import os
import threading


def end_when_closed(descriptor: int) -> None:
    """End this process as soon as the other end of the pipe `descriptor` closes.

    No process except the parent may hold the other end. The operating system closes that end when
    the parent dies, even if the parent is killed.
    """
    threading.Thread(target=_exit_when_closed, args=(descriptor,), daemon=True).start()


def _exit_when_closed(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os._exit(1)
