"""Read a CSV file in FuxiCTR's form: a header, commas, and lists written as `1^2^3`."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from mmctr_pipeline.data.ragged import list_offsets, lists_containing
from mmctr_pipeline.data.schemas import Column
from mmctr_pipeline.data.validation import DataError, check_schema, is_list
from mmctr_pipeline.files.foreign import foreign_content, is_binary

SEPARATOR = "^"

_INTEGER = re.compile(rb"-?[0-9]+")
_BLOCK_BYTES = 16 << 20


class CsvFile:
    """A CSV file with `path`, `n_rows` and `schema`, which is read in blocks.

    Each of `columns` has the type of its kind; ids are integers if the first one of the column is,
    and strings otherwise. All other columns are text. An empty value is null. Raises `DataError`.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self.path = path
        self._require_text()
        names = self._header()
        check_schema(path, pa.schema([(name, pa.null()) for name in names]), columns, types=False)
        first: dict[str, bytes] = {}
        self.n_rows = 0
        for texts in self._blocks([column.name for column in columns]):
            self.n_rows += len(texts)
            for name in set(texts.schema.names) - first.keys():
                values = (each.as_py() for each in texts.column(name).drop_null())
                stripped = (value.strip(SEPARATOR.encode()) for value in values)
                if value := next(filter(None, stripped), None):
                    first[name] = value
        for column in columns:
            value = first.get(column.name, b"")
            if column.kind.endswith("list") and value[:1] + value[-1:] == b"[]":
                problem = f"the first list is {value[:40].decode(errors='replace')!r}"
                fix = f"write lists as 1{SEPARATOR}2{SEPARATOR}3, or the table as parquet"
                raise DataError(path, problem, fix, column.name)
        # If all histories are empty, their items have the type of `item_id`.
        first.setdefault("item_seq", first.get("item_id", b""))
        types = {column.name: _type(column, first.get(column.name, b"")) for column in columns}
        self.schema = pa.schema([(name, types.get(name, pa.string())) for name in names])

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""

    def extremes(self, column: str) -> None:
        """Return None: the file must be read to know the least and the greatest value."""

    def iter_batches(self, n_rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield batches of at most `n_rows` rows; raises `DataError` for values of a wrong type."""
        first_row = 0
        for block in self._blocks(columns):
            for start in range(0, len(block), n_rows):
                texts = block.slice(start, n_rows)
                arrays = [self._typed(texts.column(name), name, first_row) for name in columns]
                yield pa.RecordBatch.from_arrays(arrays, columns)
                first_row += len(texts)

    def _require_text(self) -> None:
        try:
            foreign = foreign_content(self.path)
            if foreign is None and is_binary(self.path):
                fix = "decompress it, and write it in UTF-8"
                foreign = ("compressed, or not in a text format", fix)
        except OSError as error:
            raise self._unreadable(error) from error
        if foreign is not None:
            raise DataError(self.path, *foreign)

    def _header(self) -> list[str]:
        with self._reader([]) as reader:
            return list(reader.schema.names)

    def _blocks(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the columns as binary arrays, null where empty."""
        with self._reader(names) as reader:
            yield from reader

    @contextlib.contextmanager
    def _reader(self, names: list[str]) -> Iterator[csv.CSVStreamingReader]:
        """Open a reader of some columns, or of all if there are no `names`."""
        wrong: list[csv.InvalidRow] = []

        def record_and_fail(row: csv.InvalidRow) -> str:
            wrong.append(row)
            return "error"

        try:
            with csv.open_csv(
                self.path,
                csv.ReadOptions(block_size=_BLOCK_BYTES),
                csv.ParseOptions(newlines_in_values=True, invalid_row_handler=record_and_fail),
                csv.ConvertOptions(
                    include_columns=names,
                    column_types=dict.fromkeys(names, pa.binary()),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            ) as reader:
                yield reader
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if not wrong:
                raise self._unreadable(error) from error
            raise DataError(
                self.path,
                f"the line has {wrong[0].actual_columns} values, but the header has "
                f"{wrong[0].expected_columns}",
                "separate the values with commas, and quote titles that have commas in them",
                # For Arrow, the header is line 1. After a quoted line break it gives no numbers.
                row=None if wrong[0].number is None else wrong[0].number - 2,
            ) from error

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(self.path, f"not a readable CSV file ({error})", "write the file again")

    def _typed(self, texts: pa.Array, name: str, first_row: int) -> pa.Array:
        data_type = self.schema.field(name).type
        if not is_list(data_type):
            rows = np.arange(len(texts) + 1)
            return self._values(texts, data_type, name, first_row, rows)
        lists = pc.split_pattern(texts, SEPARATOR)
        offsets = list_offsets(lists)
        values = lists.flatten()
        if data_type.value_type == pa.int64():
            values = pc.if_else(pc.equal(values, b""), None, values)
        values = self._values(values, data_type.value_type, name, first_row, offsets)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)

    def _values(
        self, texts: pa.Array, data_type: pa.DataType, name: str, first_row: int, rows: np.ndarray
    ) -> pa.Array:
        """Return the texts in another type.

        Parameters
        ----------
        texts
            Binary values.
        data_type
            int64 or string.
        name
            The column.
        first_row
            The row of the file at which the texts begin.
        rows
            Row i of the texts has the values `texts[rows[i]:rows[i + 1]]`.
        """
        # As in parquet, text that is not UTF-8 is passed on; the encoders deal with it.
        strings = texts.view(pa.string())
        if data_type == pa.string():
            return strings
        try:
            return strings.cast(data_type)
        except pa.ArrowInvalid as error:
            position = next(i for i, text in enumerate(texts.to_pylist()) if not _is_integer(text))
            value = texts[position].as_py().decode(errors="replace")
            raise DataError(
                self.path,
                f"the value {value!r} is not an integer",
                "correct it (pandas writes integers as floats if values are missing). Ids count as "
                "integers if the first one is an integer, so store mixed ids as parquet",
                name,
                first_row + int(lists_containing(np.int64(position), rows)),
            ) from error


def _type(column: Column, first: bytes) -> pa.DataType:
    """Return the type of a column; `first` is its first filled value, without padding."""
    if column.kind == "text":
        return pa.string()
    value = first.partition(SEPARATOR.encode())[0]
    is_text = column.kind.startswith("id") and value and not _is_integer(value)
    scalar = pa.string() if is_text else pa.int64()
    return pa.list_(scalar) if column.kind.endswith("list") else scalar


def _is_integer(text: bytes | None) -> bool:
    if text is None:
        return True
    return bool(_INTEGER.fullmatch(text)) and -(2**63) <= int(text[:40]) < 2**63
