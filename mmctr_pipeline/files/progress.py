"""Progress lines for long loops: how much is done, how fast, and how much time is left."""

import logging
import time


class Progress:
    """Log a progress line every few seconds; loops shorter than that log nothing.

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
        Least time between two lines.
    """

    def __init__(
        self,
        logger: logging.Logger,
        label: str,
        total: int,
        unit: str = "rows",
        every_seconds: float = 5.0,
    ) -> None:
        self._logger = logger
        self._label = label
        self._total = total
        self._unit = unit
        self._every_seconds = every_seconds
        self.done = 0
        """Count since the start."""
        self._start = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def per_second(self) -> float:
        """Mean rate since the start."""
        return self.done / max(self.seconds, 1e-9)

    def advance(self, count: int = 1) -> None:
        """Count `count` more, and log a line if one is due."""
        self.done += count
        now = time.monotonic()
        if now - self._last < self._every_seconds or self.done >= self._total:
            return
        self._last = now
        seconds_left = (self._total - self.done) / self.per_second
        self._logger.info(
            f"{self._label}: {self.done:,} of {self._total:,} {self._unit}, "
            f"{self.per_second:,.0f} {self._unit}/s, {seconds_left:,.0f} s left"
        )
