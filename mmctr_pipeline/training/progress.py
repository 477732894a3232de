"""Progress of an epoch in words, every few seconds."""

import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts rows and logs rows per second and the remaining time, at most every few seconds."""

    def __init__(
        self, title: str, n_rows: int, log: Callable[[str], None], interval: float | None = None
    ) -> None:
        self._title = title
        self._n_rows = n_rows
        self._log = log
        self._interval = SECONDS_BETWEEN_LINES if interval is None else interval
        self._started = self._last_line = time.perf_counter()
        self._done = 0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    @property
    def rows_per_second(self) -> float:
        """Rows done per second since the start."""
        return self._done / max(self.seconds, 1e-9)

    def advance(self, n_rows: int) -> None:
        """Count `n_rows` more, and say so when the last line is long enough ago."""
        self._done += n_rows
        now = time.perf_counter()
        if now - self._last_line >= self._interval:
            self._last_line = now
            left = max(self._n_rows - self._done, 0) / self.rows_per_second
            self._log(
                f"{self._title}: {self._done:,} of {self._n_rows:,} rows, "
                f"{self.rows_per_second:,.0f} rows/s, {left:,.0f} s left"
            )
