"""Processes that end with their parent, however that one dies."""

import os
import threading


def end_when_closed(descriptor: int) -> None:
    """End this process at once when a pipe closes that its parent alone holds open.

    The operating system closes the parent's end when the parent dies, also after a kill.
    """
    threading.Thread(target=_exit_when_closed, args=(descriptor,), daemon=True).start()


def _exit_when_closed(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os._exit(1)
