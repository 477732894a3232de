import numpy as np
import pyarrow as pa
import pytest

from mmctr_pipeline.data.ragged import Ragged, lists_containing, without_zeros

_LISTS = [[1, 2], [], [3], [4, 5, 6]]


def test_from_lists() -> None:
    ragged = Ragged.from_lists(_LISTS)
    assert len(ragged) == 4
    assert [one.tolist() for one in ragged] == _LISTS
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
    assert [one.tolist() for one in taken] == [_LISTS[index] for index in indices]


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
    assert [one.tolist() for one in Ragged.from_arrow(column)] == _LISTS


def test_from_fixed_width_lists() -> None:
    ragged = Ragged.from_arrow(pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)))
    assert [one.tolist() for one in ragged] == [[1, 2], [3, 4]]


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


def test_lists_containing_values() -> None:
    ragged = Ragged.from_lists([[], *_LISTS, []])
    expected = [row for row, one in enumerate(ragged) for _ in one]
    assert lists_containing(np.arange(len(ragged.values)), ragged.offsets).tolist() == expected


def test_wrong_types_are_refused() -> None:
    with pytest.raises(TypeError):
        Ragged(np.zeros(0, np.int64), np.zeros(1, np.int64))


def test_newest_keeps_the_last_values_of_each_list() -> None:
    ragged = Ragged.from_lists([[1, 2, 3], [], [4], [5, 6]])
    assert [one.tolist() for one in ragged.newest(2)] == [[2, 3], [], [4], [5, 6]]
    assert [one.tolist() for one in ragged.newest(9)] == [one.tolist() for one in ragged]


def test_zeros_are_removed_anywhere_in_a_list() -> None:
    values = np.array([0, 0, 5, 0, 0, 0, 7, 0, 8])
    lists = without_zeros(values, np.array([0, 3, 5, 5, 9]))
    assert [one.tolist() for one in lists] == [[5], [], [], [7, 8]]
    assert lists.values.dtype == np.int32


def test_left_padding_keeps_the_last_values() -> None:
    padded = Ragged.from_lists([[1, 2, 3], [], [4]]).left_padded(2)
    assert padded.tolist() == [[2, 3], [0, 0], [0, 4]]
    assert padded.dtype == np.int64


def test_concatenated_parts_keep_their_order() -> None:
    ragged = Ragged.concatenate([Ragged.from_lists(_LISTS), Ragged.from_lists([[7], []])])
    assert [one.tolist() for one in ragged] == [*_LISTS, [7], []]
