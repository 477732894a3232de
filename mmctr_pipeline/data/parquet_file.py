"""Read one parquet file; an error says which column and rows cannot be read."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.parquet_footer import RowGroup, read_footer
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.files.foreign import foreign_content
from mmctr_pipeline.memory import machine_memory

_CANNOT_READ = (pa.ArrowException, OSError, UnicodeDecodeError)
_COPY = "copy or download the file again"
_BYTES_PER_VALUE = 8


class ParquetFile:
    """An open parquet file with `path`, `n_rows` and `schema`.

    Page checksums are verified where the file has them. Raises `DataError` if the file cannot be
    opened.

    Parameters
    ----------
    path
        The file.
    keep_open
        Keep the file open until `close`. Otherwise it is open only while it is read.
    """

    def __init__(self, path: Path, keep_open: bool = True) -> None:
        self.path, self._keep_open = path, keep_open
        self._file = self._open()
        self.schema: pa.Schema = self._file.schema_arrow
        self.n_rows: int = self._file.metadata.num_rows
        self._close_after_use()

    def _open(self) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(self.path, page_checksum_verification=True)
            # Column names that are not UTF-8 raise an error only here.
            list(file.schema_arrow.names)
        except _CANNOT_READ as error:
            raise self._unreadable(error) from error
        return file

    def _close_after_use(self) -> None:
        if not self._keep_open:
            self._file.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def check_columns(self, columns: list[str]) -> None:
        """Check that the columns are not encrypted and that their row groups fit into memory.

        Raises `DataError` if not. Even a tiny file can claim, or expand to, any number of values.
        """
        limit = machine_memory() // 2
        for group in self._groups:
            for chunk in group.chunks:
                if chunk.name not in columns:
                    continue
                if chunk.is_encrypted:
                    fix = "write the file again with this column decrypted"
                    raise DataError(self.path, "the column is encrypted", fix, chunk.name)
                needed = max(chunk.n_bytes, chunk.n_values * _BYTES_PER_VALUE)
                if needed > limit:
                    raise DataError(
                        self.path,
                        f"a row group of {group.n_rows:,} rows has {chunk.n_values:,} values, "
                        f"which take {needed / 1e9:,.0f} GB, more than half of this machine's "
                        "memory",
                        "check how the file was made; if it is right, write smaller row groups",
                        chunk.name,
                    )

    def iter_batches(self, n_rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield batches of at most `n_rows` rows; raises `DataError` if reading fails."""
        self.check_columns(columns)
        first_row = 0
        if not self.n_rows:
            return
        self._open_again()
        try:
            for batch in self._file.iter_batches(n_rows, columns=columns):
                yield batch
                first_row += len(batch)
        except _CANNOT_READ as error:
            raise self._damage(error, columns, first_row) from error
        finally:
            self._close_after_use()
        if first_row != self.n_rows:
            problem = f"the file claims {self.n_rows:,} rows but has {first_row:,}"
            raise DataError(self.path, problem, _COPY)

    def extremes(self, column: str) -> tuple[int, int] | None:
        """Return the least and the greatest value of a column of integers, by the file's footer.

        Returns None if the footer does not say.
        """
        found: list[int] = []
        metadata = self._file.metadata
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            for index in range(group.num_columns):
                chunk = group.column(index)
                if chunk.path_in_schema != column or not group.num_rows:
                    continue
                statistics = chunk.statistics
                if statistics is None or not statistics.has_min_max:
                    return None
                found += [statistics.min, statistics.max]
        is_known = bool(found) and all(isinstance(value, int) for value in found)
        return (min(found), max(found)) if is_known else None

    def _open_again(self) -> None:
        if self._keep_open:
            return
        before, self._file = self._file.metadata, self._open()
        if not self._file.metadata.equals(before):
            self._file.close()
            problem = "the file was replaced while the data were read"
            raise DataError(self.path, problem, "run again when its writer has finished")

    @functools.cached_property
    def _groups(self) -> list[RowGroup]:
        try:
            return read_footer(self.path)
        except (ValueError, OSError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        if self.path.is_file() and (foreign := foreign_content(self.path)):
            return DataError(self.path, *foreign)
        return DataError(self.path, f"not a readable parquet file ({error})", _COPY)

    def _damage(self, error: Exception, columns: list[str], first_row: int) -> DataError:
        """Return the error for the first unreadable column and rows, from `first_row` on."""
        end = 0
        for number, group in enumerate(self._groups):
            start, end = end, end + group.n_rows
            if end <= first_row:
                continue
            for column in columns:
                try:
                    self._file.read_row_group(number, columns=[column])
                except _CANNOT_READ as again:
                    where = f"rows {start:,} to {end - 1:,} (row group {number}) cannot be read"
                    return DataError(self.path, f"{where} ({again})", _fix(again), column)
        return DataError(self.path, f"cannot be read from row {first_row:,} on ({error})", _COPY)


def _fix(error: Exception) -> str:
    if "support" in str(error).lower():
        return "write the file again with a common codec and encoding, such as zstd"
    return f"{_COPY}, or write it again from its source"
