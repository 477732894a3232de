"""Benchmarks configure the root logger, as they own their process; here they share one."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers.copy()
    yield
    root.setLevel(level)
    for handler in root.handlers.copy():
        if handler not in handlers:
            root.removeHandler(handler)
