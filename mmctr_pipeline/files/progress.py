"""Progress lines for long loops: how much is done, how fast, and how long the rest will take."""

import logging
import time


class Progress:
    """Log a line every `every_seconds`; a loop shorter than that logs nothing.

    Lines go to `logger`, begin with `label`, and count in `unit`.
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
        self._done = 0
        self._start = self._last = time.monotonic()

    @property
    def done(self) -> int:
        """Count since the start."""
        return self._done

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def per_second(self) -> float:
        """Mean rate since the start."""
        return self._done / max(self.seconds, 1e-9)

    def advance(self, count: int = 1) -> None:
        """Count `count` more, and log a line if one is due."""
        self._done += count
        now = time.monotonic()
        if now - self._last < self._every_seconds or self._done >= self._total:
            return
        self._last = now
        left = (self._total - self._done) / self.per_second
        self._logger.info(
            f"{self._label}: {self._done:,} of {self._total:,} {self._unit}, "
            f"{self.per_second:,.0f} {self._unit}/s, {left:,.0f} s left"
        )
