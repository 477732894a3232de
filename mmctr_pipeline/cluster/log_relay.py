"""Bring the log lines of Ray workers into the log of the process that started them."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

PACKAGE = "mmctr_pipeline"

_POLL_SECONDS = 0.5
_FLUSH_SECONDS = 10.0

Line = tuple[str, int, str]
"""Name of the logger, level and message."""


class _Lines:
    """Actor that keeps lines until they are fetched."""

    def __init__(self) -> None:
        self._lines: list[Line] = []

    def add(self, line: Line) -> None:
        self._lines.append(line)

    def take(self) -> list[Line]:
        lines, self._lines = self._lines, []
        return lines


@contextlib.contextmanager
def relayed_logs() -> Iterator[Any]:
    """Yield an actor for `sending_logs`; its lines are logged here until the block ends."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On this node, so that the loss of another node loses no lines.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    relay: Any = ray.remote(num_cpus=0)(_Lines).options(scheduling_strategy=here).remote()
    is_over = threading.Event()

    def log_lines() -> None:
        # A lost line must not end the work that it is about.
        with contextlib.suppress(ray.exceptions.RayError):
            for name, level, message in ray.get(relay.take.remote()):
                logging.getLogger(name).log(level, message)

    def poll() -> None:
        while not is_over.wait(_POLL_SECONDS):
            log_lines()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        is_over.set()
        thread.join()
        log_lines()
        ray.kill(relay)


@contextlib.contextmanager
def sending_logs(relay: Any) -> Iterator[None]:
    """Send what this package logs in this process to `relay`, until the block ends."""
    handler, logger = _Sender(relay), logging.getLogger(PACKAGE)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.flush()


class _Sender(logging.Handler):
    """Sends each line to the actor, without waiting for it."""

    def __init__(self, relay: Any) -> None:
        super().__init__()
        self._relay, self._last = relay, None

    def emit(self, record: logging.LogRecord) -> None:
        line = record.name, record.levelno, record.getMessage()
        self._last = self._relay.add.remote(line)

    def flush(self) -> None:
        """Wait until the last line has arrived, and so all lines."""
        import ray

        if self._last is not None:
            # A lost line must not end the work that it is about.
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self._last, timeout=_FLUSH_SECONDS)
