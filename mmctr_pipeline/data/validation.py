"""Checks of the parquet files: types, nulls, ranges, duplicates, unknown items."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmctr_pipeline.data.ragged import rows_of
from mmctr_pipeline.data.schemas import Column

_SHOWN_VALUES = 12


class DataError(ValueError):
    """A file holds what it must not; names file, column, row (0-based), value and the fix."""

    def __init__(
        self, file: Path, problem: str, fix: str, column: str | None = None, row: int | None = None
    ) -> None:
        self.file = file
        self.column = column
        self.row = row
        self.fix = fix
        where = [str(file)]
        where += [f"column {column}"] if column is not None else []
        where += [f"row {row}"] if row is not None else []
        super().__init__(f"{', '.join(where)}: {problem}. Fix: {fix}")


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of one column: where errors in them are to be placed.

    `first_row` is the row of the file at which the block begins. Where equal rows that follow one
    another are looked at once, `starts` (`(M + 1,)` integers) tells which: entry i stands for the
    rows `starts[i]` to `starts[i + 1] - 1` of the block. Otherwise each row is an entry.
    """

    file: Path
    column: Column
    first_row: int = 0
    starts: np.ndarray | None = None

    def row_of_file(self, entry: int) -> int:
        """Return the row of the file, the first one where entry `entry` stands for several."""
        return self.first_row + int(entry if self.starts is None else self.starts[entry])

    def count_rows(self, entries: np.ndarray) -> int:
        """Return how many rows `entries` stand for; an entry that comes twice counts twice."""
        return len(entries) if self.starts is None else int(np.diff(self.starts)[entries].sum())

    def span(self, n_entries: int) -> str:
        """Return in words which rows of the file the block of `n_entries` covers."""
        n_rows = n_entries if self.starts is None else int(self.starts[-1])
        return f"rows {self.first_row:,} to {self.first_row + n_rows - 1:,}"

    def error(self, entry: int, problem: str, fix: str) -> DataError:
        """Return the error for the entry at position `entry` of the block."""
        return DataError(self.file, problem, fix, self.column.name, self.row_of_file(entry))


def open_parquet(path: Path, columns: Iterable[Column]) -> pq.ParquetFile:
    """Open a file and check that it has rows, and the columns with the right types.

    Raises `DataError`; values are not looked at yet.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            path, f"not a readable parquet file ({error})", "copy or download the file again"
        ) from error
    try:
        _check_schema(path, file, columns)
    except DataError:
        file.close()
        raise
    return file


def _check_schema(path: Path, file: pq.ParquetFile, columns: Iterable[Column]) -> None:
    schema = file.schema_arrow
    for column in columns:
        count = schema.names.count(column.name)
        if count != 1:
            problem = "the column is missing" if count == 0 else f"the column stands {count} times"
            raise DataError(
                path,
                f"{problem}; the file has {', '.join(schema.names)}",
                "add or rename the column" if count == 0 else "keep one of them",
                column.name,
            )
        _check_type(path, column, schema.field(column.name).type)
    if file.metadata.num_rows == 0:
        raise DataError(path, "the file has no rows", "export it again, with its rows")


def is_list(data_type: pa.DataType) -> bool:
    """Return whether the type is one of Arrow's list types that are read here."""
    return (
        pa.types.is_list(data_type)
        or pa.types.is_large_list(data_type)
        or pa.types.is_fixed_size_list(data_type)
    )


def _check_type(path: Path, column: Column, data_type: pa.DataType) -> None:
    element = data_type
    wanted = {"int": "integers", "int_list": "lists of integers", "text": "strings"}[column.kind]
    if column.kind == "int_list" and is_list(data_type):
        element = data_type.value_type
    if column.kind == "text":
        right = (
            pa.types.is_string(element)
            or pa.types.is_large_string(element)
            or pa.types.is_string_view(element)
        )
    else:
        right = pa.types.is_integer(element) and is_list(data_type) == (column.kind == "int_list")
    if not right:
        fix = f"cast the column to {wanted}"
        if pa.types.is_floating(element):
            fix += " (floats arise where missing values were read; fill or drop those first)"
        raise DataError(path, f"the type is {data_type}, not {wanted}", fix, column.name)


def integers(array: pa.Array, block: Block) -> np.ndarray:
    """Return an integer column as `(N,) int64`, without nulls and within the column's range."""
    _check_nulls(array, block)
    values = _view(array)
    check_range(values, np.arange(len(values) + 1), block)
    return values.astype(np.int64, copy=False)


def integer_lists(array: pa.Array, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Return a list column as `list_values` does, its values within the column's range."""
    values, offsets = list_values(array, block)
    check_range(values, offsets, block)
    return values, offsets


def list_values(array: pa.Array, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Return a list column as values `(T,)` (its own integer type) and offsets `(N + 1,) int64`.

    No value is missing; where the column is nullable, a null list counts as empty.
    """
    if not block.column.nullable:
        _check_nulls(array, block)
    offsets = list_offsets(array)
    flat = array.flatten()
    if flat.null_count:
        missing = np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))
        row = int(rows_of(missing[:1], offsets)[0])
        raise block.error(
            row,
            f"the list {shown(array[row].as_py())} has a missing value in it",
            "fill it in or drop the row",
        )
    return _view(flat), offsets


def list_offsets(array: pa.Array) -> np.ndarray:
    """Return the offsets of a list array of any kind, `(N + 1,) int64`; a null list is empty."""
    offsets = np.zeros(len(array) + 1, dtype=np.int64)
    lengths = pc.list_value_length(array)
    np.cumsum(_view(lengths.fill_null(0) if lengths.null_count else lengths), out=offsets[1:])
    return offsets


def _view(array: pa.Array) -> np.ndarray:
    """Return integers, none of them missing, as NumPy sees them, without a copy.

    Arrow's own `to_numpy` imports pandas wherever it is installed, which takes long.
    """
    return np.from_dlpack(array)


def _check_nulls(array: pa.Array, block: Block) -> None:
    if array.null_count:
        missing = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
        raise block.error(
            missing[0],
            f"the value is missing ({len(missing):,} such in {block.span(len(array))})",
            "fill it in or drop the row"
            + ("; write an empty history as an empty list" if is_list(array.type) else ""),
        )


def check_range(values: np.ndarray, offsets: np.ndarray, block: Block) -> None:
    """Check that each value is within the range of the block's column.

    Entry i of the block holds `values[offsets[i]:offsets[i + 1]]`.
    """
    column = block.column
    # Whole-array extremes cost one pass each without a temporary array as large as the data.
    if not len(values) or (values.min() >= column.minimum and values.max() <= column.maximum):
        return
    wrong = np.flatnonzero((values < column.minimum) | (values > column.maximum))
    value = int(values[wrong[0]])
    entries = rows_of(wrong, offsets)
    raise block.error(
        entries[0],
        f"the value {value} is not in {column.minimum}..{column.maximum} "
        f"({block.count_rows(entries):,} such in {block.span(len(offsets) - 1)})",
        _range_fix(column, value),
    )


def _range_fix(column: Column, value: int) -> str:
    if column.name == "label":
        return "write 1 for a click and 0 for none"
    if value == 0:
        return "drop the row, or number from 1: 0 stands for padding"
    if value > column.maximum and column.name.endswith("_level"):
        return f"bin the level into 0..{column.maximum}"
    return "correct the value or drop the row; renumber ids that are too large from 1 upwards"


def check_distinct(values: np.ndarray, block: Block) -> None:
    """Check that no value of a whole column `(N,)` stands there twice."""
    order = np.argsort(values, kind="stable")
    again = order[1:][values[order[1:]] == values[order[:-1]]]
    if len(again):
        row = int(again.min())
        first = int(np.flatnonzero(values == values[row])[0])
        raise block.error(
            row,
            f"the value {values[row]} stands already in row {block.first_row + first} "
            f"({len(again):,} repeated values in all)",
            "keep one row of each",
        )


def check_known(
    values: np.ndarray, offsets: np.ndarray, known: np.ndarray, block: Block, source: Path
) -> None:
    """Check that each id (0, the padding, apart) is one of the `known`, which `source` lists.

    Entry i of the block holds `values[offsets[i]:offsets[i + 1]]`.
    """
    unknown = ~np.isin(values, known)
    unknown &= values != 0
    if unknown.any():
        wrong = np.flatnonzero(unknown)
        entries = rows_of(wrong, offsets)
        raise block.error(
            entries[0],
            f"item {values[wrong[0]]} is not in {source.name} "
            f"({block.count_rows(entries):,} unknown ids in {block.span(len(offsets) - 1)})",
            f"add the item to {source} (its title may be null), or remove it here",
        )


def shown(values: list[Any]) -> str:
    """Return the values as they are to stand in a message, the middle of a long list left out."""
    if len(values) <= _SHOWN_VALUES:
        return repr(values)
    half = _SHOWN_VALUES // 2
    head = ", ".join(map(repr, values[:half]))
    tail = ", ".join(map(repr, values[-half:]))
    return f"[{head}, … {len(values) - 2 * half} more …, {tail}]"
