"""Progress of a long loop as a line every few seconds."""

import time
from collections.abc import Callable

Log = Callable[[str], None]

_SECONDS_BETWEEN_LINES = 2.0


class Progress:
    """Says how much is done, how fast, and how long the rest will take."""

    def __init__(self, what: str, total: int, log: Log) -> None:
        self._what, self._total, self._log = what, total, log
        self._done = 0
        self._start = self._last = time.monotonic()

    def add(self, n: int) -> None:
        """Count `n` more; logs a line if the last one is a few seconds old."""
        self._done += n
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES or self._done >= self._total:
            return
        self._last = now
        rate = self._done / (now - self._start)
        self._log(
            f"{self._what}: {self._done:,} of {self._total:,} "
            f"({rate:,.0f}/s, {(self._total - self._done) / rate:.0f} s left)"
        )

    def finish(self) -> None:
        """Log the total and the time that it took."""
        self._log(f"{self._what}: {self._done:,} in {time.monotonic() - self._start:.1f} s")
