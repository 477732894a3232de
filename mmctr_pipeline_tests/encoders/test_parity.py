import numpy as np
import pytest

from mmctr_pipeline.encoders.parity import parity, parity_notes, parity_rows


@pytest.mark.parametrize(
    ("n_rows", "n_wanted", "expected"),
    [(1, 8, [0]), (3, 8, [0, 1, 2]), (8, 8, list(range(8))), (101, 3, [0, 50, 100]), (9, 1, [0])],
)
def test_rows_for_comparison_are_spread_evenly(
    n_rows: int, n_wanted: int, expected: list[int]
) -> None:
    assert parity_rows(n_rows, n_wanted).tolist() == expected


def test_parity_is_the_cosine_over_all_rows_that_shards_compared() -> None:
    # Cosines 1 and 0.6 in one shard, -0.8 in another; lengths do not matter.
    first = parity_notes(np.array([[2.0, 0.0], [3.0, 4.0]]), np.array([[9.0, 0.0], [1.0, 0.0]]))
    second = parity_notes(np.array([[0.0, 1.0]]), np.array([[6.0, -8.0]], np.float32))
    assert first == pytest.approx({"parity_n": 2, "parity_sum": 1.6, "parity_min": 0.6})
    expected = {"compared": 3, "mean_cosine": 0.8 / 3, "least_cosine": -0.8}
    assert parity([first, {}, second]) == pytest.approx(expected)


def test_a_vector_of_zeros_has_a_cosine_of_zero() -> None:
    notes = parity_notes(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))
    assert parity([notes]) == {"compared": 1, "mean_cosine": 0, "least_cosine": 0}


def test_nothing_compared_is_no_parity() -> None:
    assert parity([]) is None
    assert parity([{}, {"other": "note"}]) is None
