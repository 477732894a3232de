from collections.abc import Iterator

import pytest

from mmctr_pipeline.encoders.image.inference import in_threads


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
