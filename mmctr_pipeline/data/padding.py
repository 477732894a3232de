"""The zeros that pad lists to one width: checked in histories, and taken off."""

import dataclasses

import numpy as np

from mmctr_pipeline.data.ragged import Ragged, rows_of
from mmctr_pipeline.data.validation import Block, DataError, shown


def without_zeros(values: np.ndarray, offsets: np.ndarray) -> Ragged:
    """Return the lists `values[offsets[i]:offsets[i + 1]]` without the zeros in them."""
    kept = np.flatnonzero(values != 0)
    # Most values are padding: to look the offsets up takes less than to count through all values.
    return Ragged(values[kept].astype(np.int32, copy=False), np.searchsorted(kept, offsets))


@dataclasses.dataclass
class PaddingCheck:
    """Checks the histories of one file block by block: padded left to one width, or not at all."""

    _first: tuple[int, int] | None = dataclasses.field(default=None, init=False)
    _other: tuple[int, int] | None = dataclasses.field(default=None, init=False)
    _padded: int | None = dataclasses.field(default=None, init=False)

    def check(self, values: np.ndarray, offsets: np.ndarray, block: Block) -> None:
        """Check one block; entry i of it holds `values[offsets[i]:offsets[i + 1]]`."""
        is_zero = values == 0
        self._check_side(values, is_zero, offsets, block)
        self._remember(is_zero, offsets, block)
        if self._first and self._other and self._padded is not None:
            (row, width), (other_row, other_width) = self._first, self._other
            raise DataError(
                block.file,
                f"the list has {other_width} values where row {row} has {width}, and row "
                f"{self._padded} is padded with 0",
                "pad every list to one width, or leave the padding out altogether",
                block.column.name,
                other_row,
            )

    @staticmethod
    def _check_side(
        values: np.ndarray, is_zero: np.ndarray, offsets: np.ndarray, block: Block
    ) -> None:
        if len(values) < 2:
            return
        zero_after_id = is_zero[1:] > is_zero[:-1]
        starts = offsets[1:-1]
        zero_after_id[starts[(starts > 0) & (starts < len(values))] - 1] = False
        if not zero_after_id.any():
            return
        entry = _entry_of(np.argmax(zero_after_id) + 1, offsets)
        history = values[offsets[entry] : offsets[entry + 1]]
        tail = np.flatnonzero(history)[-1] + 1
        kind = "is padded on the right" if history[:tail].all() else "has holes"
        raise block.error(
            entry,
            f"the history {shown(history.tolist())} {kind}: a 0 stands after an item id",
            "write the ids oldest first, with the padding zeros on the left: 0, 0, 12, 7",
        )

    def _remember(self, is_zero: np.ndarray, offsets: np.ndarray, block: Block) -> None:
        widths = np.diff(offsets)
        if self._first is None and len(widths):
            self._first = (block.first_row, int(widths[0]))
        if self._other is None and self._first is not None:
            other = np.flatnonzero(widths != self._first[1])
            if len(other):
                self._other = (block.row_of_file(other[0]), int(widths[other[0]]))
        if self._padded is None and is_zero.any():
            self._padded = block.row_of_file(_entry_of(np.argmax(is_zero), offsets))


def _entry_of(position: np.integer, offsets: np.ndarray) -> int:
    return int(rows_of(np.array([position]), offsets)[0])
