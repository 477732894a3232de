"""The histories of interaction files: checked, without padding, equal neighbours stored once."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.distinct import distinct_lists, run_starts
from mmctr_pipeline.data.padding import PaddingCheck, without_zeros
from mmctr_pipeline.data.ragged import Ragged, rows_of
from mmctr_pipeline.data.validation import Block, check_known, check_range, list_values


@dataclasses.dataclass(frozen=True)
class RowHistories:
    """Histories of N rows, of which several may share a list.

    Row i has the history `lists[list_of_row[i]]`; `list_of_row` is `(N,) int64`.
    """

    lists: Ragged
    list_of_row: np.ndarray

    def n_with_target(self, targets: np.ndarray) -> int:
        """Return in how many rows the target item (`(N,)` ids) stands in the row's own history."""
        own = self.lists.take(self.list_of_row)
        hits = np.flatnonzero(own.values == np.repeat(targets, own.lengths))
        has_target = np.zeros(len(targets), dtype=bool)
        has_target[rows_of(hits, own.offsets)] = True
        return int(np.count_nonzero(has_target))


def read_histories(
    array: pa.Array, block: Block, padding: PaddingCheck, known: np.ndarray, source: Path
) -> RowHistories:
    """Return the histories of a block of rows, without their padding.

    Each id is one of the `known`, which `source` lists; raises `DataError` for what is wrong. Equal
    rows that follow one another share a list.
    """
    values, offsets = list_values(array, block)
    # The rows of a user often follow one another and share one history, which then needs to be
    # checked, stripped and hashed only once.
    starts = run_starts(values, offsets)
    if len(starts) < len(offsets):
        values = values.reshape(len(offsets) - 1, -1)[starts[:-1]].reshape(-1)
        offsets = offsets[: len(starts)]
    block = dataclasses.replace(block, starts=starts)
    check_range(values, offsets, block)
    padding.check(values, offsets, block)
    lists = without_zeros(values, offsets)
    check_known(lists.values, lists.offsets, known, block, source)
    return RowHistories(lists, np.repeat(np.arange(len(lists)), np.diff(starts)))


class Histories:
    """Histories of all files end to end, in memory that is reserved once.

    Padding and repetitions count into what is reserved, but pages that are never written take no
    memory.
    """

    def __init__(self, files: list[pq.ParquetFile]) -> None:
        n_rows = sum(file.metadata.num_rows for file in files)
        self._values = np.empty(sum(map(_n_list_values, files)), dtype=np.int32)
        self._offsets = np.zeros(n_rows + 1, dtype=np.int64)
        self._list_of_row = np.empty(n_rows, dtype=np.int32)
        self._n_lists = 0
        self._n_rows = 0

    def append(self, rows: RowHistories) -> None:
        """Add the histories of the rows that come next."""
        first, last = self._n_lists, self._n_lists + len(rows.lists)
        start = self._offsets[first]
        self._values[start : start + len(rows.lists.values)] = rows.lists.values
        self._offsets[first + 1 : last + 1] = start + rows.lists.offsets[1:]
        last_row = self._n_rows + len(rows.list_of_row)
        self._list_of_row[self._n_rows : last_row] = first + rows.list_of_row
        self._n_lists, self._n_rows = last, last_row

    def distinct(self) -> tuple[Ragged, np.ndarray]:
        """Return the distinct histories by first appearance, and which each row has, `(N,) int32`.

        To be called once every row is there.
        """
        offsets = self._offsets[: self._n_lists + 1]
        lists, index = distinct_lists(Ragged(self._values[: offsets[-1]], offsets))
        return lists, index[self._list_of_row]


def _n_list_values(file: pq.ParquetFile) -> int:
    """Return how many values `item_seq` holds, padding included, as the file's footer says."""
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(c.num_values for c in columns if c.path_in_schema.startswith("item_seq."))
