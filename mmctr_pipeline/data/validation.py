"""Checks of the data files: columns, types, nulls, ranges, duplicates."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmctr_pipeline.data.ragged import list_offsets, lists_containing, numpy_view
from mmctr_pipeline.data.schemas import Column

_SHOWN_VALUES = 12


class DataNotFoundError(FileNotFoundError):
    """A part of the data set is missing or ambiguous; the message says where."""


class DataError(ValueError):
    """A file has invalid contents; names file, column, row (0-based), value and the fix.

    Parameters
    ----------
    file
        The file, or the URL of a folder.
    problem
        What is wrong, with the value.
    fix
        What to do, in the imperative.
    column, row
        Where the problem is, if known.
    """

    def __init__(
        self,
        file: Path | str,
        problem: str,
        fix: str,
        column: str | None = None,
        row: int | None = None,
    ) -> None:
        self.file = file
        # Some libraries report errors in several lines.
        self.problem = " ".join(problem.splitlines())
        self.column = column
        self.row = row
        self.fix = fix
        where = [str(file)]
        where += [f"column {column}"] if column is not None else []
        where += [f"row {row}"] if row is not None else []
        super().__init__(f"{', '.join(where)}: {self.problem}. Fix: {fix}")


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of one column, to locate errors in the file.

    `first_row` is the row of the file at which the block starts. If runs of equal rows are checked
    once, `starts` (`(M + 1,)` integers) gives the runs: entry i covers the rows `starts[i]` to
    `starts[i + 1] - 1` of the block. Otherwise each row is an entry.
    """

    file: Path
    column: Column
    first_row: int = 0
    starts: np.ndarray | None = None

    def file_row(self, entry: int) -> int:
        """Return the first row of the file that `entry` covers."""
        return self.first_row + int(entry if self.starts is None else self.starts[entry])

    def error(self, entry: int, problem: str, fix: str) -> DataError:
        """Return the error for one entry."""
        return DataError(self.file, problem, fix, self.column.name, self.file_row(entry))

    def first_error(self, entries: np.ndarray, n_entries: int, problem: str, fix: str) -> DataError:
        """Return the error for the first invalid entry, with the number of invalid rows.

        Parameters
        ----------
        entries
            The invalid entries, `(K,)` ascending; an entry that occurs twice counts twice.
        n_entries
            Number of entries of the block.
        problem, fix
            As in `DataError`.
        """
        starts = np.arange(n_entries + 1) if self.starts is None else self.starts
        n_rows, last_row = np.diff(starts)[entries].sum(), self.first_row + starts[-1] - 1
        counted = f"{n_rows:,} such values in rows {self.first_row:,} to {last_row:,}"
        return self.error(entries[0], f"{problem} ({counted})", fix)


def check_schema(
    path: Path, schema: pa.Schema, columns: Iterable[Column], types: bool = True
) -> None:
    """Check that a table has each of the columns once, with the right type; raises `DataError`.

    Parameters
    ----------
    path, schema
        The file, for messages, and its schema.
    columns
        The columns that it must have.
    types
        Whether to check the types too.
    """
    for column in columns:
        count = schema.names.count(column.name)
        if count != 1:
            problem = "the column is missing" if count == 0 else f"the column occurs {count} times"
            raise DataError(
                path,
                f"{problem}; the file has {', '.join(schema.names)}",
                "add or rename the column" if count == 0 else "keep one of them",
                column.name,
            )
        if types:
            _check_type(path, column, schema.field(column.name).type)


def is_list(data_type: pa.DataType) -> bool:
    """Return whether the type is a list type that the readers support."""
    return isinstance(data_type, pa.ListType | pa.LargeListType | pa.FixedSizeListType)


def is_text(data_type: pa.DataType) -> bool:
    """Return whether the type is a string type that the readers support."""
    return data_type in (pa.string(), pa.large_string(), pa.string_view())


def _is_id(data_type: pa.DataType) -> bool:
    if pa.types.is_dictionary(data_type):
        return is_text(data_type.value_type)
    return pa.types.is_integer(data_type) or is_text(data_type)


def _is_id_list(data_type: pa.DataType) -> bool:
    return is_list(data_type) and (
        pa.types.is_integer(data_type.value_type) or is_text(data_type.value_type)
    )


_KINDS: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "int": ("integers", pa.types.is_integer),
    "int_list": ("lists of integers", lambda t: is_list(t) and pa.types.is_integer(t.value_type)),
    "text": ("strings", is_text),
    "id": ("integers or strings", _is_id),
    "id_list": ("lists of integers or strings", _is_id_list),
}


def _check_type(path: Path, column: Column, data_type: pa.DataType) -> None:
    wanted, matches = _KINDS[column.kind]
    if matches(data_type):
        return
    fix = f"cast the column to {wanted}"
    if pa.types.is_floating(data_type.value_type if is_list(data_type) else data_type):
        fix += " (pandas reads integers as floats if values are missing; fill or drop these first)"
    raise DataError(path, f"the type is {data_type}, not {wanted}", fix, column.name)


def integers(array: pa.Array, block: Block) -> np.ndarray:
    """Return an integer column as `(N,) int64`, after checking nulls and the column's range."""
    check_nulls(array, block)
    values = numpy_view(array)
    check_range(values, np.arange(len(values) + 1), block)
    return values.astype(np.int64, copy=False)


def list_values(array: pa.Array, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Return a list column as values `(T,)` and offsets `(N + 1,) int64`.

    The values keep their integer type. Checks that no value is missing. In a nullable column, a
    null list counts as empty.
    """
    flat, offsets = list_elements(array, block)
    return numpy_view(flat), offsets


def list_elements(array: pa.Array, block: Block) -> tuple[pa.Array, np.ndarray]:
    """Return lists of any type as `list_values` does, but with the values as an Arrow array."""
    if not block.column.nullable:
        check_nulls(array, block)
    offsets = list_offsets(array)
    flat = array.flatten()
    if flat.null_count:
        row = int(lists_containing(_null_positions(flat)[0], offsets))
        raise block.error(
            row,
            f"the list {shown(array[row].as_py())} has a missing value in it",
            "fill it in or drop the row",
        )
    return flat, offsets


def check_nulls(array: pa.Array, block: Block) -> None:
    """Check that no value of a column is missing."""
    if array.null_count:
        fix = "fill it in or drop the row"
        if is_list(array.type):
            fix += f"; write an empty history as {_empty_history(array)}"
        missing = _null_positions(array)
        raise block.first_error(missing, len(array), "the value is missing", fix)


def _empty_history(array: pa.Array) -> str:
    """Return how to write an empty history in the form of the column's other lists."""
    offsets, flat = list_offsets(array), array.flatten()
    widths = np.unique(np.diff(offsets)[~array.is_null().to_numpy(zero_copy_only=False)])
    if len(widths) != 1 or not widths[0]:
        return "an empty list"
    padding, name = (0, "zeros") if pa.types.is_integer(flat.type) else ("", "empty strings")
    if pc.any(pc.equal(flat, pa.scalar(padding, flat.type))).as_py():
        return f"{widths[0]} {name}, as the other lists are padded"
    return f"an empty list, or as {widths[0]} {name} if other lists are padded"


def _null_positions(array: pa.Array) -> np.ndarray:
    return np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))


def check_range(values: np.ndarray, offsets: np.ndarray, block: Block) -> None:
    """Check that each value is within the range of the block's column.

    Entry i of the block has the values `values[offsets[i]:offsets[i + 1]]`.
    """
    column = block.column
    # An extreme takes one pass and, unlike a comparison, no temporary array of the same size.
    if not len(values) or (values.min() >= column.minimum and values.max() <= column.maximum):
        return
    wrong = np.flatnonzero((values < column.minimum) | (values > column.maximum))
    value = int(values[wrong[0]])
    raise block.first_error(
        lists_containing(wrong, offsets),
        len(offsets) - 1,
        f"the value {value} is not in {column.minimum}..{column.maximum}",
        _range_fix(column, value),
    )


def _range_fix(column: Column, value: int) -> str:
    if column.name == "label":
        return "write 1 for a click and 0 for none"
    if value == 0:
        return "drop the row, or number from 1: 0 is the padding"
    if value > column.maximum and column.name.endswith("_level"):
        return f"bin the level into 0..{column.maximum}"
    if value > column.maximum and column.kind in ("id", "id_list"):
        return "write all user and item ids as strings"
    return "correct the value or drop the row; renumber ids that are too large, from 1 upwards"


def check_distinct(values: np.ndarray, block: Block) -> None:
    """Check that the values of a whole column `(N,)` are distinct."""
    order = np.argsort(values, kind="stable")
    repeated = order[1:][values[order[1:]] == values[order[:-1]]]
    if len(repeated):
        row = int(repeated.min())
        first = int(np.flatnonzero(values == values[row])[0])
        raise block.error(
            row,
            f"the value {values[row]} already occurs in row {block.first_row + first} "
            f"({len(repeated):,} repeated values in total)",
            "keep one row for each value",
        )


def shown(values: list[Any]) -> str:
    """Return the values for a message, without the middle of a long list."""
    if len(values) <= _SHOWN_VALUES:
        return repr(values)
    half = _SHOWN_VALUES // 2
    head = ", ".join(map(repr, values[:half]))
    tail = ", ".join(map(repr, values[-half:]))
    return f"[{head}, … {len(values) - 2 * half} more …, {tail}]"
