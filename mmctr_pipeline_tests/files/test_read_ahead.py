import threading
from collections.abc import Iterator

import pytest

from mmctr_pipeline.files.read_ahead import read_ahead


def test_all_come_in_their_order() -> None:
    assert list(read_ahead(iter(range(1, 6)))) == [1, 2, 3, 4, 5]
    assert list(read_ahead(iter(()))) == []


def test_the_next_is_fetched_while_the_last_is_in_use() -> None:
    second_is_fetched = threading.Event()

    def blocks() -> Iterator[str]:
        yield "first"
        second_is_fetched.set()
        yield "second"

    ahead = read_ahead(blocks())
    assert next(ahead) == "first"
    assert second_is_fetched.wait(timeout=30)
    assert next(ahead) == "second"


def test_an_error_comes_in_the_place_of_its_block() -> None:
    def blocks() -> Iterator[str]:
        yield "first"
        raise OSError("the disk is gone")

    ahead = read_ahead(blocks())
    assert next(ahead) == "first"
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_closing_waits_for_the_block_in_flight() -> None:
    is_in_flight, may_end = threading.Event(), threading.Event()
    seen = []

    def blocks() -> Iterator[str]:
        yield "first"
        is_in_flight.set()
        may_end.wait(timeout=30)
        seen.append("second")
        yield "second"

    ahead = read_ahead(blocks())
    next(ahead)
    is_in_flight.wait(timeout=30)
    threading.Timer(0.05, may_end.set).start()
    ahead.close()
    assert seen == ["second"]
