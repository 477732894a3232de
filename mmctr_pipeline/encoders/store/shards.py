"""Shard files of the vector store: their layout and names, how they are written and validated.

A shard is a parquet file with one row per content: `content` (the SHA-256 of what was encoded),
`vector` (fixed-size list of float32) and `reason` (null, or why there is no vector; the vector is
then all zeros). The metadata of its schema names the encoder and the reader of the contents, and
holds the encoder's notes.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.files.atomic import atomic_write

Notes = dict[str, float]
"""Numbers that an encoder stores with a shard."""

KEY = np.dtype("V32")
"""A content in numpy: 32 raw bytes, compared as bytes. Unlike "S32" it keeps trailing zeros."""


class DamagedFileError(Exception):
    """A file of the vector store that must not be used; `reason` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def encoder_folder(identity: str) -> str:
    """Return the name of an encoder's folder: readable, and different for each identity."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", identity)[:180]
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def shard_name(contents: np.ndarray) -> str:
    """Return the file name of the shard that holds `contents` (`KEY`, in any order)."""
    return f"{hashlib.sha256(np.sort(contents).tobytes()).hexdigest()[:32]}.parquet"


def shard_paths(folder: Path) -> list[Path]:
    """Return the shard files of an encoder's folder by name, or an empty list without a folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if re.fullmatch(r"[0-9a-f]{32}\.parquet", path.name)
    )


def shard_table(contents: np.ndarray, vectors: np.ndarray, reasons: Mapping[int, str]) -> pa.Table:
    """Return the rows of a shard; `reasons` says by row why a vector is missing.

    `contents` is `(n,) KEY`, `vectors` `(n, D) float32`.
    """
    schema = _schema(vectors.shape[1])
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    columns = [
        keys_to_arrow(contents),
        pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type),
        pa.array([reasons.get(row) for row in range(len(contents))], pa.string()),
    ]
    return pa.table(columns, schema=schema)


def write_shard(
    folder: Path, table: pa.Table, identity: str, reader: str, notes: list[Notes]
) -> Path:
    """Write a shard atomically into an encoder's folder and return its path.

    A shard of the same contents is replaced.

    Parameters
    ----------
    folder
        The folder of the encoder, named by `encoder_folder`.
    table
        The rows as `shard_table` returns them, contents distinct.
    identity
        The encoder.
    reader
        Names what read the contents.
    notes
        One entry per encoded shard whose rows are in `table`.
    """
    path = folder / shard_name(keys_from_arrow(table.column("content")))
    metadata = {
        "mmctr.identity": identity,
        "mmctr.reader": reader,
        "mmctr.notes": json.dumps(notes, sort_keys=True),
    }
    with atomic_write(path) as temporary:
        # Neither hashes nor vectors compress.
        pq.write_table(
            table.replace_schema_metadata(metadata),
            temporary,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )
    return path


@dataclasses.dataclass(frozen=True)
class StoredShard:
    """An open shard file.

    `contents` is `(n,) KEY`, `has_vector` `(n,) bool`, and `reasons` `(n,) object` holds None or
    why a vector is missing. `notes` has one entry for each encoded shard that went into this file.
    """

    path: Path
    identity: str
    reader: str
    notes: list[Notes]
    width: int
    contents: np.ndarray
    has_vector: np.ndarray
    reasons: np.ndarray
    _file: pq.ParquetFile

    def read_table(self) -> pa.Table:
        """Return all rows with their vectors; raises `DamagedFileError`."""
        with naming_damage(self.path):
            return self._file.read()

    def read_vectors(self) -> np.ndarray:
        """Return `(n, width) float32`; raises `DamagedFileError`."""
        with naming_damage(self.path):
            column = self._file.read(columns=["vector"]).column(0).combine_chunks()
            return column.flatten().to_numpy().reshape(-1, self.width)


@contextlib.contextmanager
def open_shard(path: Path) -> Iterator[StoredShard]:
    """Open a shard file and read everything except the vectors.

    Raises `DamagedFileError` if the file is truncated, fails its checksums, is not a shard, or
    does not match its name and folder, and `FileNotFoundError` if it no longer exists.
    """
    with naming_damage(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    with file:
        with naming_damage(path):
            shard = _read_without_vectors(path, file)
        yield shard


@contextlib.contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn the errors that pyarrow raises for a damaged file into `DamagedFileError`.

    Faults of the machine (no permission, no memory, too many open files) pass unchanged, as they
    say nothing about the file.
    """
    try:
        yield
    except MemoryError:
        raise
    except OSError as error:
        # A parquet file that cannot be parsed or fails its checksum has no error number.
        if error.errno not in (None, errno.EIO):
            raise
        raise DamagedFileError(path, str(error)) from error
    except (ValueError, KeyError, pa.ArrowException) as error:
        raise DamagedFileError(path, str(error)) from error


def keys_to_arrow(keys: np.ndarray) -> pa.Array:
    """Return `KEY`s as a `fixed_size_binary(32)` array."""
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(KEY.itemsize), len(keys), [None, pa.py_buffer(keys.tobytes())]
    )


def keys_from_arrow(column: pa.ChunkedArray) -> np.ndarray:
    """Return a `fixed_size_binary(32)` column without nulls as `KEY`s."""
    return np.frombuffer(b"".join(column.to_pylist()), KEY)


def find_keys(keys: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of `keys` its position in `known` (ascending), and whether it is there.

    Where a key is missing the position is any valid one; `known` must not be empty.
    """
    position = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return position, known[position] == keys


def _schema(width: int) -> pa.Schema:
    # Columns that cannot hold nulls are read faster.
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), width)
    return pa.schema(
        [
            pa.field("content", pa.binary(KEY.itemsize), nullable=False),
            pa.field("vector", vector, nullable=False),
            pa.field("reason", pa.string()),
        ]
    )


def _read_without_vectors(path: Path, file: pq.ParquetFile) -> StoredShard:
    schema = file.schema_arrow
    metadata = schema.metadata or {}
    width = getattr(schema.field("vector").type, "list_size", 0) if "vector" in schema.names else 0
    if not schema.equals(_schema(width)) or b"mmctr.identity" not in metadata:
        raise DamagedFileError(path, "it is not a shard of this store")
    identity = metadata[b"mmctr.identity"].decode()
    if encoder_folder(identity) != path.parent.name:
        raise DamagedFileError(path, f"it was written by another encoder, {identity}")
    table = file.read(columns=["content", "reason"])
    contents = keys_from_arrow(table.column("content"))
    if shard_name(contents) != path.name:
        raise DamagedFileError(path, "its name does not match its contents")
    return StoredShard(
        path=path,
        identity=identity,
        reader=metadata[b"mmctr.reader"].decode(),
        notes=json.loads(metadata[b"mmctr.notes"]),
        width=width,
        contents=contents,
        has_vector=table.column("reason").is_null().to_numpy(),
        reasons=table.column("reason").to_numpy(),
        _file=file,
    )
