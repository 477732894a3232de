"""Read the histories of interaction files: checked, unpadded, equal histories stored once."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmctr_pipeline.data.id_columns import holds_text, listed_items, require_known
from mmctr_pipeline.data.ids import IdMap
from mmctr_pipeline.data.ragged import (
    Ragged,
    distinct_lists,
    lists_containing,
    offsets_from_lengths,
    run_starts,
    stripped,
)
from mmctr_pipeline.data.validation import Block, DataError, check_range, shown


@dataclasses.dataclass(frozen=True)
class RowHistories:
    """Histories of N rows; several rows may share a list.

    Row i has the history `lists[list_of_row[i]]`; `list_of_row` is `(N,) int32`.
    """

    lists: Ragged
    list_of_row: np.ndarray

    def count_with_target(self, targets: np.ndarray) -> int:
        """Return the number of rows with their target in their own history; `targets` is `(N,)`."""
        own = self.lists.take(self.list_of_row)
        hits = np.flatnonzero(own.values == np.repeat(targets, own.lengths))
        return len(np.unique(lists_containing(hits, own.offsets)))


def read_histories(
    array: pa.Array, block: Block, padding: "PaddingCheck", items: IdMap, source: Path
) -> RowHistories:
    """Return the histories of a block as table rows; neighbouring equal histories share a list.

    Raises `DataError` for invalid lists.

    Parameters
    ----------
    array
        The column `item_seq` of the block, N lists of integers or strings.
    block
        The place of the rows in the file, for errors.
    padding
        The check of this file's padding.
    items
        The table row of each item id.
    source
        The file that lists the items.
    """
    values, offsets = listed_items(array, block, items, source)
    # Neighbouring rows are often of one user with one history, which is checked and stripped once.
    starts = run_starts(values, offsets)
    if len(starts) < len(offsets):
        values = values.reshape(len(offsets) - 1, -1)[starts[:-1]].reshape(-1)
        offsets = offsets[: len(starts)]
    block = dataclasses.replace(block, starts=starts)
    check_range(values, offsets, block)
    is_mapped = holds_text(array.type)
    padding.check(values, offsets, block, items if is_mapped else None)
    values, offsets = stripped(values, offsets)
    rows = values if is_mapped else items.look_up(values)
    require_known(rows == 0, values, offsets, block, source)
    lists = Ragged(rows, offsets)
    return RowHistories(lists, np.repeat(np.arange(len(lists), dtype=np.int32), np.diff(starts)))


def merge_histories(parts: list[RowHistories]) -> tuple[Ragged, np.ndarray]:
    """Return the distinct histories by first appearance, and the index of each row's history.

    The index is `(N,) int32`. Empties `parts`, to free their memory before the comparison.
    """
    lists = Ragged.concatenate([part.lists for part in parts])
    first_list = offsets_from_lengths([len(part.lists) for part in parts]).astype(np.int32)
    list_of_row = np.concatenate(
        [first + part.list_of_row for first, part in zip(first_list, parts, strict=False)]
    )
    parts.clear()
    distinct, index = distinct_lists(lists)
    return distinct, index[list_of_row]


class PaddingCheck:
    """Checks that the histories of a file are all left-padded to one width, or all unpadded.

    The file is checked block by block.
    """

    def __init__(self) -> None:
        # Row and width of the first list, and of the first list of another width.
        self._first: tuple[int, int] | None = None
        self._other: tuple[int, int] | None = None
        # The first padded row.
        self._padded: int | None = None

    def check(
        self,
        values: np.ndarray,
        offsets: np.ndarray,
        block: Block,
        strings: IdMap | None = None,
    ) -> None:
        """Check one block; raises `DataError`.

        Parameters
        ----------
        values, offsets
            Entry i of the block has the values `values[offsets[i]:offsets[i + 1]]`.
        block
            The place of the entries in the file, for errors.
        strings
            If the values are rows of string ids, the map that names them in messages.
        """
        is_zero, widths = values == 0, np.diff(offsets)
        _check_side(values, is_zero, offsets, block, strings)
        if not len(widths):
            return
        self._first = self._first or (block.first_row, int(widths[0]))
        other = np.flatnonzero(widths != self._first[1])
        if self._other is None and len(other):
            self._other = (block.file_row(other[0]), int(widths[other[0]]))
        if self._padded is None and is_zero.any():
            self._padded = block.file_row(int(lists_containing(np.argmax(is_zero), offsets)))
        if self._other and self._padded is not None:
            (row, width), (other_row, other_width) = self._first, self._other
            raise DataError(
                block.file,
                f"the list has {other_width} values but row {row} has {width}, and row "
                f"{self._padded} is padded with {'empty strings' if strings else 0}",
                "pad all lists to one width, or leave out the padding",
                block.column.name,
                other_row,
            )


def _check_side(
    values: np.ndarray,
    is_zero: np.ndarray,
    offsets: np.ndarray,
    block: Block,
    strings: IdMap | None,
) -> None:
    """Check that no list has a zero after an item id."""
    if len(values) < 2:
        return
    zero_after_id = is_zero[1:] > is_zero[:-1]
    starts = offsets[1:-1]
    zero_after_id[starts[(starts > 0) & (starts < len(values))] - 1] = False
    if not zero_after_id.any():
        return
    entry = int(lists_containing(np.argmax(zero_after_id) + 1, offsets))
    history = values[offsets[entry] : offsets[entry + 1]]
    tail = np.flatnonzero(history)[-1] + 1
    kind = "is padded on the right" if history[:tail].all() else "has gaps"
    padding, example = "a 0", "0, 0, 12, 7"
    if strings:
        history = strings.ids_at(history)
        padding, example = "an empty string", "'', '', 'b', 'a'"
    raise block.error(
        entry,
        f"the history {shown(history.tolist())} {kind}: {padding} follows an item id",
        f"write the ids oldest first, with the padding on the left: {example}",
    )
