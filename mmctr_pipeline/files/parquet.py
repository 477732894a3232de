"""Parquet artefacts: written with checksums, verified when read.

The checksum of the whole file (`checksum`) also covers the parts that page checksums leave out:
page headers, schema and metadata. Files without it are read with their page checksums, if any.
"""

import contextlib
import errno
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.files import checksum
from mmctr_pipeline.files.errors import DamagedFileError


def write_parquet(table: pa.Table, path: Path, *, raw: bool = False) -> str:
    """Write a table with checksums, and return the checksum of the file.

    The write is not atomic; wrap it in `atomic_write`.

    Parameters
    ----------
    table
        The rows, with their schema metadata.
    path
        Where to write.
    raw
        Write the values without compression, for vectors and hashes, which do not compress.
    """
    metadata = {**(table.schema.metadata or {}), checksum.KEY: checksum.BLANK}
    pq.write_table(
        table.replace_schema_metadata(metadata),
        path,
        compression="none" if raw else "snappy",
        use_dictionary=not raw,
        write_statistics=not raw,
        write_page_checksum=True,
    )
    return checksum.seal(path)


def read_parquet(
    path: Path, columns: Sequence[str] | None = None, expected: str | None = None
) -> pa.Table:
    """Read a file that `write_parquet` wrote.

    Files of earlier versions, which have no checksums, are read too. Raises `DamagedFileError` if
    the file is damaged, and `FileNotFoundError` if there is none.

    Parameters
    ----------
    path
        The file.
    columns
        Names of the columns to read, by default all.
    expected
        The checksum that the file must have. By default any correct checksum is accepted.
    """
    with open_parquet(path, expected) as file, naming_damage(path):
        table = file.read(columns)
        metadata = dict(table.schema.metadata or {})
        metadata.pop(checksum.KEY.encode(), None)
        return table.replace_schema_metadata(metadata or None)


@contextlib.contextmanager
def open_parquet(path: Path, expected: str | None = None) -> Iterator[pq.ParquetFile]:
    """Verify a parquet file and open it; parameters and errors as in `read_parquet`.

    Errors inside the block pass unchanged, so read within `naming_damage`.
    """
    with path.open("rb") as opened:
        with naming_damage(path):
            found = checksum.verify(opened, path)
            if expected and found != expected:
                raise DamagedFileError(
                    f"{path} is not the file that was written with the others of its folder: its "
                    f"checksum is {found}, but they record {expected}"
                )
            file = pq.ParquetFile(opened, page_checksum_verification=found is None, pre_buffer=True)
            for text in itertools.chain(*(file.metadata.metadata or {}).items()):
                text.decode()  # some readers of metadata crash unless it is UTF-8
        with file:
            yield file


@contextlib.contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn the errors that reading a damaged parquet file raises into `DamagedFileError`.

    Other faults (no permission, no memory, too many open files) pass unchanged, as they do not
    mean that the file is damaged.
    """
    try:
        yield
    except (MemoryError, DamagedFileError):
        raise
    except OSError as error:
        # An error about a file that cannot be parsed, or fails its checksum, has no error number.
        if error.errno not in (None, errno.EIO):
            raise
        raise DamagedFileError(f"{path} is damaged: {error}") from error
    except (ValueError, KeyError, pa.ArrowException) as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error
