"""Reading ahead keeps the order, stays only a few items ahead, and passes errors on."""

import threading
from collections.abc import Iterator

import pytest

from mmctr_pipeline.files.read_ahead import in_threads, read_ahead


class Recorded(list[int]):
    """Numbers that count how many of them were taken."""

    n_taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in super().__iter__():
            self.n_taken += 1
            yield number


def test_in_threads_keeps_the_order_and_stays_a_few_ahead() -> None:
    numbers = Recorded(range(50))
    results = in_threads(lambda number: number * number, numbers, 5)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert numbers.n_taken <= 3 + 5
    assert list(results) == [number * number for number in range(3, 50)]
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // number, [2, 1, 0], 2))


def test_read_ahead_keeps_the_order() -> None:
    assert list(read_ahead(iter(range(1, 6)))) == [1, 2, 3, 4, 5]
    assert list(read_ahead(iter(()))) == []


def test_read_ahead_fetches_while_the_previous_batch_is_in_use() -> None:
    second_is_fetched = threading.Event()

    def batches() -> Iterator[str]:
        yield "first"
        second_is_fetched.set()
        yield "second"

    ahead = read_ahead(batches())
    assert next(ahead) == "first"
    assert second_is_fetched.wait(timeout=30)
    assert next(ahead) == "second"


def test_read_ahead_raises_an_error_after_the_batches_before_it() -> None:
    def batches() -> Iterator[str]:
        yield "first"
        raise OSError("the disk is gone")

    ahead = read_ahead(batches())
    assert next(ahead) == "first"
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_closing_read_ahead_waits_for_the_batch_in_flight() -> None:
    is_in_flight, may_end = threading.Event(), threading.Event()
    seen = []

    def batches() -> Iterator[str]:
        yield "first"
        is_in_flight.set()
        may_end.wait(timeout=30)
        seen.append("second")
        yield "second"

    ahead = read_ahead(batches())
    next(ahead)
    is_in_flight.wait(timeout=30)
    threading.Timer(0.05, may_end.set).start()
    ahead.close()
    assert seen == ["second"]
