"""Ragged arrays behave like lists of lists."""

import numpy as np
import pyarrow as pa
import pytest

from mmctr_pipeline.data.ragged import (
    Ragged,
    distinct_lists,
    lists_containing,
    run_starts,
    without_zeros,
)

_LISTS = [[1, 2], [], [3], [4, 5, 6]]


def test_from_lists() -> None:
    ragged = Ragged.from_lists(_LISTS)
    assert len(ragged) == 4
    assert [values.tolist() for values in ragged] == _LISTS
    assert ragged.lengths.tolist() == [2, 0, 1, 3]
    assert ragged.values.dtype == np.int32
    assert len(Ragged.from_lists([])) == 0


def test_indexing() -> None:
    ragged = Ragged.from_lists(_LISTS)
    assert ragged[3].tolist() == ragged[-1].tolist() == [4, 5, 6]
    for index in (4, -5):
        with pytest.raises(IndexError):
            ragged[index]


@pytest.mark.parametrize("indices", [[3, 0, 0], [1, 1], [], [2]])
def test_take(indices: list[int]) -> None:
    taken = Ragged.from_lists(_LISTS).take(np.array(indices, dtype=np.int64))
    assert [values.tolist() for values in taken] == [_LISTS[index] for index in indices]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(_LISTS, pa.list_(pa.int64())),
        pa.array(_LISTS, pa.large_list(pa.uint8())),
        pa.array([[9], *_LISTS, [9]], pa.list_(pa.int16())).slice(1, 4),
        pa.chunked_array([pa.array(_LISTS[:1]), pa.array(_LISTS[1:])]),
        pa.array([[1, 2], None, [3], [4, 5, 6]]),
    ],
)
def test_from_arrow(column: pa.Array) -> None:
    assert [values.tolist() for values in Ragged.from_arrow(column)] == _LISTS


def test_from_fixed_width_lists() -> None:
    ragged = Ragged.from_arrow(pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)))
    assert [values.tolist() for values in ragged] == [[1, 2], [3, 4]]


def test_arrow_round_trip() -> None:
    ragged = Ragged.from_lists(_LISTS)
    again = Ragged.from_arrow(ragged.to_arrow())
    assert again.values.tolist() == ragged.values.tolist()
    assert again.offsets.tolist() == ragged.offsets.tolist()
    assert ragged.to_arrow().to_pylist() == _LISTS


def test_numbers_beyond_int32_are_refused() -> None:
    with pytest.raises(pa.ArrowInvalid):
        Ragged.from_arrow(pa.array([[2**31]]))


@pytest.mark.parametrize("offsets", [[], [1, 3], [0, 2], [0, 2, 1, 3]])
def test_wrong_offsets_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError):
        Ragged(np.zeros(3, np.int32), np.array(offsets, np.int64))


def test_lists_containing_returns_the_list_of_each_value() -> None:
    ragged = Ragged.from_lists([[], *_LISTS, []])
    expected = [row for row, values in enumerate(ragged) for _ in values]
    assert lists_containing(np.arange(len(ragged.values)), ragged.offsets).tolist() == expected


def test_wrong_types_are_refused() -> None:
    with pytest.raises(TypeError):
        Ragged(np.zeros(0, np.int64), np.zeros(1, np.int64))


def test_newest_keeps_the_last_values_of_each_list() -> None:
    ragged = Ragged.from_lists([[1, 2, 3], [], [4], [5, 6]])
    assert [values.tolist() for values in ragged.newest(2)] == [[2, 3], [], [4], [5, 6]]
    assert [values.tolist() for values in ragged.newest(9)] == [
        values.tolist() for values in ragged
    ]


def test_zeros_are_removed_anywhere_in_a_list() -> None:
    values = np.array([0, 0, 5, 0, 0, 0, 7, 0, 8])
    lists = without_zeros(values, np.array([0, 3, 5, 5, 9]))
    assert [values.tolist() for values in lists] == [[5], [], [], [7, 8]]
    assert lists.values.dtype == np.int32


def test_left_padding_keeps_the_last_values() -> None:
    padded = Ragged.from_lists([[1, 2, 3], [], [4]]).left_padded(2)
    assert padded.tolist() == [[2, 3], [0, 0], [0, 4]]
    assert padded.dtype == np.int64


def test_concatenated_parts_keep_their_order() -> None:
    ragged = Ragged.concatenate([Ragged.from_lists(_LISTS), Ragged.from_lists([[7], []])])
    assert [values.tolist() for values in ragged] == [*_LISTS, [7], []]


def _random_lists(seed: int, count: int, n_ids: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, n_ids, rng.integers(0, 5)).tolist() for _ in range(count)]


@pytest.mark.parametrize("seed", [64, 8, 2])
def test_distinct_lists_equal_the_keys_of_a_dictionary(seed: int) -> None:
    lists = _random_lists(seed, count=700, n_ids=4)
    distinct, index = distinct_lists(Ragged.from_lists(lists))
    seen: dict[tuple[int, ...], int] = {}
    expected_index = [seen.setdefault(tuple(values), len(seen)) for values in lists]
    assert [tuple(values) for values in distinct] == list(seen)
    assert index.tolist() == expected_index
    assert index.dtype == np.int32


def test_order_and_length_make_lists_distinct() -> None:
    lists = [[1, 2], [2, 1], [1], [1, 1], [], [1, 2], []]
    distinct, index = distinct_lists(Ragged.from_lists(lists))
    assert [values.tolist() for values in distinct] == [[1, 2], [2, 1], [1], [1, 1], []]
    assert index.tolist() == [0, 1, 2, 3, 4, 0, 4]


def test_all_pairs_of_ids_are_distinct() -> None:
    pairs = np.stack(np.meshgrid(np.arange(1, 301), np.arange(1, 301)), -1).reshape(-1, 2)
    lists = Ragged(
        pairs.astype(np.int32).reshape(-1), np.arange(0, 2 * len(pairs) + 1, 2, dtype=np.int64)
    )
    distinct, index = distinct_lists(lists)
    assert np.array_equal(distinct.values, lists.values)
    assert np.array_equal(index, np.arange(len(pairs)))


@pytest.mark.parametrize("lists", [[], [[], [], []]])
def test_distinct_lists_without_any_value(lists: list[list[int]]) -> None:
    distinct, index = distinct_lists(Ragged.from_lists(lists))
    assert [values.tolist() for values in distinct] == lists[:1]
    assert index.tolist() == [0] * len(lists)


def test_run_starts_finds_runs_of_equal_lists() -> None:
    values = np.array([0, 1, 0, 1, 0, 2, 0, 1, 1, 1, 1, 1])
    starts = run_starts(values, np.arange(0, 13, 2))
    assert starts.tolist() == [0, 2, 3, 4, 6]
    assert run_starts(np.array([7, 7]), np.array([0, 2])).tolist() == [0, 1]
    assert run_starts(np.zeros(0, np.int64), np.array([0])).tolist() == [0]


def test_lists_of_different_lengths_start_new_runs() -> None:
    values = np.array([1, 1, 1, 1, 1])
    assert run_starts(values, np.array([0, 1, 2, 5])).tolist() == [0, 1, 2, 3]
    assert run_starts(values[:0], np.array([0, 0, 0])).tolist() == [0, 1, 2]
