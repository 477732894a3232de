"""Histories lose their padding and are stored once; irregular padding is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.histories import (
    PaddingCheck,
    RowHistories,
    merge_histories,
    read_histories,
)
from mmctr_pipeline.data.ids import IdMap
from mmctr_pipeline.data.schemas import Column
from mmctr_pipeline.data.validation import Block, DataError

_BLOCK = Block(Path("f"), Column("item_seq", "int_list"))
_PADDED = [[0, 1, 2]] * 3 + [[0, 0, 0]] * 2 + [[0, 1, 2], [3, 1, 2], [0, 0, 2]]


def _read(array: pa.Array) -> RowHistories:
    items = IdMap.from_ids(np.array([1, 2, 3]))
    return read_histories(array, _BLOCK, PaddingCheck(), items, Path("items"))


@pytest.mark.parametrize(
    "make_list", [pa.list_, pa.large_list, lambda integer: pa.list_(integer, 3)]
)
def test_equal_neighbouring_histories_share_a_list(
    make_list: Callable[[pa.DataType], pa.DataType],
) -> None:
    history = _read(pa.array(_PADDED, make_list(pa.int64())))
    assert [values.tolist() for values in history.lists] == [[1, 2], [], [1, 2], [3, 1, 2], [2]]
    assert history.list_of_row.tolist() == [0, 0, 0, 1, 1, 2, 3, 4]


def test_only_the_slice_of_a_larger_array_is_read() -> None:
    history = _read(pa.array([[3, 3, 3], *_PADDED, [3, 3, 3]]).slice(1, 4))
    assert [values.tolist() for values in history.lists] == [[1, 2], []]
    assert history.list_of_row.tolist() == [0, 0, 0, 1]


def test_a_target_is_looked_up_only_in_the_history_of_its_own_row() -> None:
    history = _read(pa.array(_PADDED))
    # Rows 1, 5 and 6 have their target in their own history. Each other target is only in
    # histories of other rows.
    assert history.count_with_target(np.array([3, 2, 3, 1, 2, 1, 3, 1])) == 3
    # A row counts once, even if its target is in its history several times.
    assert _read(pa.array([[2, 2, 2]])).count_with_target(np.array([2])) == 1


def test_histories_are_stored_once_over_blocks_and_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 4, 60)
    parts = []
    for number in range(2):
        lists = [rng.integers(1, 4, lengths[rng.integers(60)]).tolist() for _ in range(50)]
        rows = [lists[i] for i in np.sort(rng.integers(0, 50, 300))]
        parts.append([[0] * (3 - len(history)) + history for history in rows])
        pq.write_table(pa.table({"item_seq": parts[-1]}), tmp_path / f"{number}.parquet")
    with (
        pq.ParquetFile(tmp_path / "0.parquet") as first,
        pq.ParquetFile(tmp_path / "1.parquet") as second,
    ):
        histories = [
            _read(batch.column("item_seq"))
            for file in (first, second)
            for batch in file.iter_batches(70)
        ]
    expected = [tuple(filter(None, row)) for part in parts for row in part]
    distinct, index = merge_histories(histories)
    assert [tuple(values.tolist()) for values in distinct] == list(dict.fromkeys(expected))
    assert [tuple(distinct[row].tolist()) for row in index] == expected
    assert index.dtype == np.int32


def test_padding_is_checked_across_blocks() -> None:
    column = Column("item_seq", "int_list")
    check = PaddingCheck()
    check.check(np.array([1, 2, 3]), np.array([0, 1, 3]), Block(Path("f"), column, 0))
    with pytest.raises(DataError, match="row 5 is padded") as error:
        check.check(np.array([0, 3]), np.array([0, 2]), Block(Path("f"), column, 5))
    assert error.value.row == 1


def test_a_zero_at_the_start_of_a_list_is_not_a_gap() -> None:
    values = np.array([1, 2, 0, 3, 0, 0, 0, 4])
    offsets = np.array([0, 2, 4, 6, 8])
    block = Block(Path("f"), Column("item_seq", "int_list"))
    PaddingCheck().check(values, offsets, block)
    # As one list, the same values do have gaps.
    with pytest.raises(DataError):
        PaddingCheck().check(values, np.array([0, 8]), block)


def test_a_long_history_is_shortened_in_the_message(tmp_path: Path) -> None:
    block = Block(tmp_path, Column("item_seq", "int_list"))
    values = np.array([1] * 99 + [0])
    with pytest.raises(DataError) as error:
        PaddingCheck().check(values, np.array([0, 100]), block)
    assert "88 more" in str(error.value)
    assert len(str(error.value)) < 400


def test_errors_name_the_first_row_of_a_run() -> None:
    column = Column("item_seq", "int_list")
    # The three runs are the rows 10 to 13, the row 14, and the rows 15 to 16 of the file.
    block = Block(Path("f"), column, first_row=10, starts=np.array([0, 4, 5, 7]))
    with pytest.raises(DataError, match="padded on the right") as error:
        PaddingCheck().check(np.array([0, 1, 1, 1, 1, 0]), np.array([0, 2, 4, 6]), block)
    assert error.value.row == 15
    with pytest.raises(DataError, match="row 14 is padded") as error:
        PaddingCheck().check(np.array([1, 1, 0, 1, 2]), np.array([0, 2, 4, 5]), block)
    assert error.value.row == 15
