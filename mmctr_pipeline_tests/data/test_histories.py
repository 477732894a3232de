from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.histories import Histories, RowHistories, read_histories
from mmctr_pipeline.data.padding import PaddingCheck
from mmctr_pipeline.data.schemas import Column
from mmctr_pipeline.data.validation import Block

_BLOCK = Block(Path("f"), Column("item_seq", "int_list"))
_PADDED = [[0, 1, 2]] * 3 + [[0, 0, 0]] * 2 + [[0, 1, 2], [3, 1, 2], [0, 0, 2]]


def _read(array: pa.Array) -> RowHistories:
    return read_histories(array, _BLOCK, PaddingCheck(), np.array([1, 2, 3]), Path("items"))


@pytest.mark.parametrize(
    "make_list", [pa.list_, pa.large_list, lambda integer: pa.list_(integer, 3)]
)
def test_neighbours_share_a_list(make_list: Callable[[pa.DataType], pa.DataType]) -> None:
    history = _read(pa.array(_PADDED, make_list(pa.int64())))
    assert [one.tolist() for one in history.lists] == [[1, 2], [], [1, 2], [3, 1, 2], [2]]
    assert history.list_of_row.tolist() == [0, 0, 0, 1, 1, 2, 3, 4]


def test_a_slice_of_a_larger_array_is_read_alone() -> None:
    history = _read(pa.array([[3, 3, 3], *_PADDED, [3, 3, 3]]).slice(1, 4))
    assert [one.tolist() for one in history.lists] == [[1, 2], []]
    assert history.list_of_row.tolist() == [0, 0, 0, 1]


def test_targets_are_sought_in_the_row_s_own_history() -> None:
    history = _read(pa.array(_PADDED))
    # These are rows 1, 5 and 6; the others' targets stand in other rows' histories alone.
    assert history.n_with_target(np.array([3, 2, 3, 1, 2, 1, 3, 1])) == 3
    # A row counts once, however often its target stands there.
    assert _read(pa.array([[2, 2, 2]])).n_with_target(np.array([2])) == 1


def test_distinct_histories_over_blocks_and_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 4, 60)
    parts = []
    for number in range(2):
        lists = [rng.integers(1, 4, lengths[rng.integers(60)]).tolist() for _ in range(50)]
        rows = [lists[i] for i in np.sort(rng.integers(0, 50, 300))]
        parts.append([[0] * (3 - len(one)) + one for one in rows])
        pq.write_table(pa.table({"item_seq": parts[-1]}), tmp_path / f"{number}.parquet")
    with (
        pq.ParquetFile(tmp_path / "0.parquet") as one,
        pq.ParquetFile(tmp_path / "1.parquet") as other,
    ):
        histories = Histories([one, other])
        for file in (one, other):
            for batch in file.iter_batches(70):
                histories.append(_read(batch.column("item_seq")))
    expected = [tuple(filter(None, row)) for part in parts for row in part]
    distinct, index = histories.distinct()
    assert [tuple(one.tolist()) for one in distinct] == list(dict.fromkeys(expected))
    assert [tuple(distinct[each].tolist()) for each in index] == expected
    assert index.dtype == np.int32
