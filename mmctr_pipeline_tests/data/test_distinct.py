import numpy as np
import pytest

from mmctr_pipeline.data import distinct
from mmctr_pipeline.data.distinct import distinct_lists, run_starts
from mmctr_pipeline.data.ragged import Ragged


def _reference(lists: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    seen: dict[tuple[int, ...], int] = {}
    index = [seen.setdefault(tuple(one), len(seen)) for one in lists]
    return [list(one) for one in seen], index


def _random_lists(seed: int, count: int, n_ids: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, n_ids, rng.integers(0, 5)).tolist() for _ in range(count)]


# With few bits most lists collide; only comparing their values separates them.
@pytest.mark.parametrize("hash_bits", [64, 8, 2])
@pytest.mark.parametrize("chunk_values", [2_000_000, 5])
def test_equals_a_dictionary_of_tuples(
    hash_bits: int, chunk_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distinct, "_CHUNK_VALUES", chunk_values)
    lists = _random_lists(seed=hash_bits, count=700, n_ids=4)
    found, index = distinct_lists(Ragged.from_lists(lists), hash_bits)
    expected, expected_index = _reference(lists)
    assert [one.tolist() for one in found] == expected
    assert index.tolist() == expected_index
    assert index.dtype == np.int32


def test_order_and_length_matter() -> None:
    lists = [[1, 2], [2, 1], [1], [1, 1], [], [1, 2], []]
    found, index = distinct_lists(Ragged.from_lists(lists))
    assert [one.tolist() for one in found] == [[1, 2], [2, 1], [1], [1, 1], []]
    assert index.tolist() == [0, 1, 2, 3, 4, 0, 4]


def test_the_hash_does_not_collide_on_pairs_of_ids() -> None:
    # All pairs of 300 ids: a weak hash would collide among these.
    pairs = np.stack(np.meshgrid(np.arange(1, 301), np.arange(1, 301)), -1).reshape(-1, 2)
    lists = Ragged(
        pairs.astype(np.int32).reshape(-1), np.arange(0, 2 * len(pairs) + 1, 2, dtype=np.int64)
    )
    hashes = distinct._hashes(lists, 0)
    assert len(np.unique(hashes)) == len(lists)


def test_no_lists() -> None:
    found, index = distinct_lists(Ragged.from_lists([]))
    assert len(found) == len(index) == 0


def test_runs_of_equal_neighbours() -> None:
    values = np.array([0, 1, 0, 1, 0, 2, 0, 1, 1, 1, 1, 1])
    starts = run_starts(values, np.arange(0, 13, 2))
    assert starts.tolist() == [0, 2, 3, 4, 6]
    assert run_starts(np.array([7, 7]), np.array([0, 2])).tolist() == [0, 1]
    assert run_starts(np.zeros(0, np.int64), np.array([0])).tolist() == [0]


def test_lists_of_differing_length_are_not_compared() -> None:
    values = np.array([1, 1, 1, 1, 1])
    assert run_starts(values, np.array([0, 1, 2, 5])).tolist() == [0, 1, 2, 3]
    assert run_starts(values[:0], np.array([0, 0, 0])).tolist() == [0, 1, 2]
