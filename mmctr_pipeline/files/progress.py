"""Progress lines for long loops: how much is done, how fast, and how much time is left."""

import dataclasses
import logging
import time
from collections.abc import Callable

Advance = Callable[[int], None]
"""Counts things that have been done, for the progress in the log."""


@dataclasses.dataclass
class Progress:
    """Log a progress line every few seconds; shorter loops log nothing.

    Parameters
    ----------
    logger
        The logger of the caller's module.
    label
        First words of each line.
    total
        Count at the end of the loop.
    unit
        Plural noun of the things counted.
    every_seconds
        The minimum time between two lines.
    done
        Count that was done before this loop; the rate leaves it out.
    """

    logger: logging.Logger
    label: str
    total: int
    unit: str = "rows"
    every_seconds: float = 5.0
    done: int = 0

    def __post_init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._done_before = self.done

    @property
    def count(self) -> int:
        """Count of this loop so far."""
        return self.done - self._done_before

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def per_second(self) -> float:
        """Mean rate since the start."""
        return self.count / max(self.seconds, 1e-9)

    def advance(self, count: int = 1) -> None:
        """Count `count` more, and log a line if one is due."""
        self.done += count
        now = time.monotonic()
        if now - self._last < self.every_seconds or self.done >= self.total:
            return
        self._last = now
        seconds_left = (self.total - self.done) / self.per_second
        self.logger.info(
            f"{self.label}: {self.done:,} of {self.total:,} {self.unit}, "
            f"{self.per_second:,.0f} {self.unit}/s, {seconds_left:,.0f} s left"
        )
