"""Open a table of the data set: a parquet file, a folder of parquet part files, or a CSV file."""

import bisect
import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import pyarrow as pa

from mmctr_pipeline.data.csv_file import CsvFile
from mmctr_pipeline.data.parquet_file import ParquetFile
from mmctr_pipeline.data.schemas import Column
from mmctr_pipeline.data.validation import DataError, check_schema
from mmctr_pipeline.memory import machine_memory

_READ_ROWS = 1024
"""Rows per batch when a table is read whole. It is small, as a row of a small file can be huge."""

_BYTES_PER_ROW = 24
"""Minimum memory, in bytes, that a row takes while a table is in use."""


_MAX_OPEN_PARTS = 100
"""A table of more parts opens each only while it is read: processes may open only so many files."""


@dataclasses.dataclass(frozen=True)
class Table:
    """The files of a table, in the order of their rows.

    `path` is the table's file, or the folder that holds its files. `label` names the table in
    messages.
    """

    path: Path
    files: tuple[Path, ...]
    label: str

    @classmethod
    def at(cls, path: Path) -> Self:
        """Return the table of a file, or of a folder of part files; raises as `table_files`."""
        return cls(path, tuple(table_files(path)), path.name)

    @property
    def has_parts(self) -> bool:
        """True if the rows are in part files of the folder `path`."""
        return self.files != (self.path,)


class _Part(Protocol):
    """A file that holds a table or a part of one; reading raises `DataError`."""

    path: Path
    n_rows: int
    schema: pa.Schema

    def iter_batches(self, n_rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]: ...

    def extremes(self, column: str) -> tuple[int, int] | None: ...

    def close(self) -> None: ...


class TableFile:
    """An open table; a context manager that closes its files.

    Reading raises `DataError`. An error that leaves the context names the part file and the row
    within it, even if it was raised with the row within the whole table.
    """

    def __init__(self, table: Table, parts: Sequence[_Part]) -> None:
        self.path, self.label = table.path, table.label
        self._parts = parts
        self._starts = list(itertools.accumulate((part.n_rows for part in parts), initial=0))

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self._starts[-1]

    @property
    def rows_by_file(self) -> dict[Path, int]:
        """Number of rows of each file, in the order of the rows."""
        return {part.path: part.n_rows for part in self._parts}

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns of the file."""
        return self._parts[0].schema

    def read(self, columns: list[str]) -> pa.Table:
        """Return some columns of all rows, each as one chunk."""
        batches: list[pa.RecordBatch] = []
        n_rows = n_bytes = 0
        for batch in self.iter_batches(_READ_ROWS, columns):
            batches.append(batch)
            n_rows, n_bytes = n_rows + len(batch), n_bytes + batch.nbytes
            _check_memory(self.path, self.n_rows, n_bytes // n_rows)
        try:
            return pa.Table.from_batches(batches).select(columns).combine_chunks()
        except pa.ArrowException as error:
            raise DataError(self.path, f"too large to read ({error})", "make it smaller") from error

    def iter_batches(self, n_rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of all rows, in batches of at most `n_rows`; no batch spans files."""
        for part in self._parts:
            _check_types(part, self._parts[0], columns)
            yield from part.iter_batches(n_rows, columns)

    def extremes(self, column: str) -> tuple[int, int] | None:
        """Return the least and the greatest value of a column of integers, without reading it.

        Returns None if a file does not say.
        """
        by_part = [part.extremes(column) for part in self._parts if part.n_rows]
        known = [extremes for extremes in by_part if extremes is not None]
        if not known or len(known) < len(by_part):
            return None
        return min(least for least, _ in known), max(greatest for _, greatest in known)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for part in self._parts:
            part.close()
        if not isinstance(error, DataError) or error.file != self.path or error.row is None:
            return
        if len(self._parts) > 1:
            raise self._in_part(error, error.row) from error.__cause__

    def _in_part(self, error: DataError, row: int) -> DataError:
        number = bisect.bisect_right(self._starts, row) - 1
        note = (
            f"this row is row {row} if counted through all of {self.label}, as all other rows "
            "in this message are"
        )
        return DataError(
            self._parts[number].path,
            f"{error.problem} ({note})",
            error.fix,
            error.column,
            row - self._starts[number],
        )


def open_table(source: Path | Table, columns: Iterable[Column]) -> TableFile:
    """Open a table, and check that it has rows and the columns with the right types.

    A path names a parquet file, a folder of part files (`train.parquet/part-00000.parquet`), or a
    CSV file in FuxiCTR's form, whose lists are written `1^2^3`. Other columns are ignored.
    Raises `DataError`. Values are not checked.
    """
    columns, table = list(columns), source if isinstance(source, Table) else Table.at(source)
    path, keep_open = table.path, len(table.files) <= _MAX_OPEN_PARTS
    with contextlib.ExitStack() as opened:
        parts: list[_Part] = []
        for file in table.files:
            is_csv = file.suffix == ".csv"
            part: _Part = CsvFile(file, columns) if is_csv else ParquetFile(file, keep_open)
            parts.append(part)
            opened.callback(part.close)
            check_schema(file, part.schema, columns)
            _check_types(part, parts[0], [column.name for column in columns])
        opened_table = TableFile(table, parts)
        if not opened_table.n_rows:
            problem = f"{table.label} has no rows" if table.has_parts else "the file has no rows"
            raise DataError(path, problem, "export it again, with its rows")
        _check_memory(path, opened_table.n_rows, _BYTES_PER_ROW)
        for part in parts:
            if isinstance(part, ParquetFile):
                part.check_columns([column.name for column in columns])
        opened.pop_all()
    return opened_table


def table_files(path: Path) -> list[Path]:
    """Return the files that make up a table: the file itself, or the parts of a folder by name.

    Names that begin with `.` or `_` (checksums, `_SUCCESS`) are not parts. Raises `DataError` for a
    folder without parts, or with anything else in it.
    """
    if not path.is_dir():
        return [path]
    parts = sorted(part for part in path.iterdir() if part.name[0] not in "._")
    others = [part.name for part in parts if part.suffix != ".parquet" or part.is_dir()]
    if others or not parts:
        found = f"the folder also has {others[0]}" if others else "the folder is empty"
        raise DataError(
            path,
            f"{found}; a folder of this name must hold only part files named *.parquet",
            f"move the rest away, or write one file: polars.scan_parquet('{path}')"
            ".sink_parquet('one.parquet')",
        )
    return parts


def _check_types(part: _Part, first: _Part, columns: list[str]) -> None:
    """Check that a part has the columns in the same types as the first part."""
    for column in columns:
        if part.schema.names.count(column) != 1:
            raise DataError(
                part.path, "the column is missing or occurs twice", "write it once", column
            )
        found, expected = part.schema.field(column).type, first.schema.field(column).type
        if found != expected:
            raise DataError(
                part.path,
                f"the type is {found}, but it is {expected} in {first.path.name}",
                "write all parts with the same types",
                column,
            )


def _check_memory(path: Path, n_rows: int, n_bytes: int) -> None:
    """Check that `n_rows` of `n_bytes` each fit into half of the machine's memory."""
    needed = n_rows * n_bytes
    if needed > machine_memory() // 2:
        raise DataError(
            path,
            f"{n_rows:,} rows of {n_bytes:,} bytes take {needed / 1e9:,.0f} GB, more than half of "
            "this machine's memory",
            "check how the file was made; if it is right, use a machine with more memory",
        )
