"""Ctrl-C and SIGTERM: the process reports the end of its run, and ends together with its steps."""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Self

import click

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_SECONDS = 0.5


class StopSignals:
    """In a `with` block, ends the process on SIGINT or SIGTERM, even if Dagster handles these too.

    A thread ends the process without cleaning up, since artefacts stay intact even after a kill.
    Dagster's own handling, an exception in each step, takes long and may be swallowed.

    After a signal, the block has `grace_seconds` to end by itself; a second signal ends this wait.
    Then the thread calls `before_exit` and ends the process.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.before_exit: Callable[[], object] = lambda: None
        self.grace_seconds = 0.0
        # If make started this process, it ends with make. Otherwise it may outlive its parent.
        self._make = os.getppid() if "MAKELEVEL" in os.environ else None

    @property
    def exit_status(self) -> int:
        """Exit status of a process that was stopped: 130 after SIGINT, 143 after SIGTERM."""
        return 128 + (self.received or signal.SIGINT)

    @property
    def advice(self) -> str:
        """The last line of a process that was stopped."""
        name = (self.received or signal.SIGINT).name
        return (
            f"Stopped by {name}. What is finished is kept: the same command will encode only what "
            "is missing, and training will resume at its last checkpoint."
        )

    def __enter__(self) -> Self:
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            signal.signal(number, signal.default_int_handler)
        # Python writes the number of each signal to this pipe, also while Dagster handles signals.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._is_over = False
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        signal.set_wakeup_fd(-1)
        os.write(self._writer, b"\0")
        self._watcher.join()
        for descriptor in (self._reader, self._writer):
            os.close(descriptor)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _watch(self) -> None:
        deadline = 0.0
        while not self._is_over:
            ready, _, _ = select.select([self._reader], [], [], _POLL_SECONDS)
            numbers = os.read(self._reader, 64) if ready else b""
            stops = [number for number in numbers if number in _SIGNALS]
            if self._make is not None and os.getppid() != self._make:
                stops.append(signal.SIGTERM)
            if stops and self.received is None:
                self.received = signal.Signals(stops.pop(0))
                deadline = time.monotonic() + self.grace_seconds
            has_second_signal = bool(stops)
            if self.received and (has_second_signal or time.monotonic() >= deadline):
                self._end_process()

    def _end_process(self) -> None:
        try:
            self.before_exit()
            click.echo(self.advice)
            sys.stdout.flush()
        finally:
            os._exit(self.exit_status)
