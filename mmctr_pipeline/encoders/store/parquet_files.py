"""The parquet files of an encoder's folder: shards of vectors, and the record of last use.

A shard has one row per content: `content` (the SHA-256 of the encoded text or file), `vector`
(fixed-size list of float32) and `reason` (null, or why there is no vector; the vector is then all
zeros). The metadata of its schema names the encoder and the reader of the contents, and holds the
encoder's notes. The record has the `day` on which each `content` was last requested; pruning uses
it.
"""

import contextlib
import datetime
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.files.parquet import naming_damage, open_parquet, read_parquet, write_parquet

logger = logging.getLogger(__name__)

LAST_USED = "last_used.parquet"

Notes = dict[str, float]
"""Numbers that an encoder stores with a shard."""

KEY = np.dtype("V32")
"""dtype of a content: 32 raw bytes, compared as bytes. Unlike "S32" it keeps trailing zeros."""

_CONTENT = pa.binary(KEY.itemsize)
_LAST_USED_SCHEMA = pa.schema([("content", _CONTENT), ("day", pa.date32())])


def encoder_folder(identity: str) -> str:
    """Return the name of an encoder's folder: readable, and different for each identity."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", identity)[:180]
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def shard_name(contents: np.ndarray) -> str:
    """Return the file name of the shard that holds `contents` (`KEY`, in any order)."""
    return f"{hashlib.sha256(np.sort(contents).tobytes()).hexdigest()[:32]}.parquet"


def shard_paths(folder: Path) -> list[Path]:
    """Return the shard files of an encoder's folder, by name."""
    names = [path.name for path in folder.iterdir()]
    return [folder / name for name in sorted(names) if re.fullmatch(r"[0-9a-f]{32}\.parquet", name)]


def shard_table(contents: np.ndarray, vectors: np.ndarray, reasons: Mapping[int, str]) -> pa.Table:
    """Return the rows of a shard; `reasons` says by row why a vector is missing.

    `contents` is `(n,) KEY`, `vectors` `(n, D) float32`.
    """
    schema = _schema(vectors.shape[1])
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    columns = [
        pa.array(contents.tolist(), _CONTENT),
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
        Name and version of the program that read the contents.
    notes
        One entry per encoded shard whose rows are in `table`.
    """
    path = folder / shard_name(content_keys(table))
    metadata = {
        "mmctr.identity": identity,
        "mmctr.reader": reader,
        "mmctr.notes": json.dumps(notes, sort_keys=True),
    }
    with atomic_write(path) as temporary:
        write_parquet(table.replace_schema_metadata(metadata), temporary, raw=True)
    return path


class StoredShard:
    """A shard file, validated, with everything except its vectors read.

    `contents` is `(n,) KEY`, `has_vector` `(n,) bool`, and `reasons` `(n,) object` holds None or
    why a vector is missing. `width` is that of the vectors. `notes` has one entry for each encoded
    shard that went into this file.
    """

    def __init__(self, path: Path, file: pq.ParquetFile) -> None:
        schema = file.schema_arrow
        metadata = schema.metadata or {}
        self.path, self._file = path, file
        self.width = getattr(schema.field("vector").type, "list_size", 0)
        if not schema.equals(_schema(self.width)) or b"mmctr.identity" not in metadata:
            raise DamagedFileError(f"{path}: it is not a shard of this store")
        self.identity = metadata[b"mmctr.identity"].decode()
        if encoder_folder(self.identity) != path.parent.name:
            raise DamagedFileError(f"{path}: it was written by another encoder, {self.identity}")
        self.reader = metadata[b"mmctr.reader"].decode()
        self.notes: list[Notes] = json.loads(metadata[b"mmctr.notes"])
        table = file.read(columns=["content", "reason"])
        self.contents = content_keys(table)
        if shard_name(self.contents) != path.name:
            raise DamagedFileError(f"{path}: its name does not match its contents")
        self.has_vector: np.ndarray = table.column("reason").is_null().to_numpy()
        self.reasons: np.ndarray = table.column("reason").to_numpy()

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
    """Open a shard file.

    Raises `DamagedFileError` if the file is truncated, fails its checksums, is not a shard, or
    does not match its name and folder, and `FileNotFoundError` if it no longer exists.
    """
    with open_parquet(path) as file:
        with naming_damage(path):
            shard = StoredShard(path, file)
        yield shard


def content_keys(table: pa.Table) -> np.ndarray:
    """Return the column `content` of a table, `(n,) KEY`."""
    return np.frombuffer(b"".join(table.column("content").to_pylist()), KEY)


def find_keys(keys: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of `keys` its position in `known` (ascending), and whether it was found.

    For keys that were not found, the position is meaningless but valid. `known` must not be empty.
    """
    position = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return position, known[position] == keys


def record_use(folder: Path, contents: np.ndarray, day: datetime.date) -> None:
    """Record in an encoder's folder that `contents` (`(n,) KEY`) were used on `day`.

    A damaged record is logged and replaced.
    """
    with locked(folder / f"{LAST_USED}.lock"):
        try:
            known, days = read_last_used(folder)
        except DamagedFileError as error:
            logger.warning(f"{error}; starting a new record of last use")
            known, days = np.empty(0, KEY), np.empty(0, "datetime64[D]")
        # `unique` keeps the first of equal contents, which is the one with the new day.
        merged, first = np.unique(np.concatenate([contents, known]), return_index=True)
        merged_days = np.concatenate([np.full(len(contents), np.datetime64(day)), days])[first]
        if len(merged) > len(known) or not np.array_equal(merged_days, days):
            write_last_used(folder, merged, merged_days)


def read_last_used(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the contents, `(n,) KEY` ascending, and the day of each, `(n,) datetime64[D]`.

    Both are empty if nothing was recorded. Raises `DamagedFileError`.
    """
    path, table = folder / LAST_USED, _LAST_USED_SCHEMA.empty_table()
    if path.exists():
        table = read_parquet(path)
    if not table.schema.equals(_LAST_USED_SCHEMA):
        raise DamagedFileError(f"{path}: it is not a record of last use")
    return content_keys(table), table.column("day").to_numpy()


def write_last_used(folder: Path, contents: np.ndarray, days: np.ndarray) -> None:
    """Write a record as `read_last_used` returns it."""
    columns = [pa.array(contents.tolist(), _CONTENT), pa.array(days)]
    with atomic_write(folder / LAST_USED) as temporary:
        write_parquet(pa.table(columns, schema=_LAST_USED_SCHEMA), temporary, raw=True)


def _schema(width: int) -> pa.Schema:
    # Columns that cannot hold nulls are read faster.
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), width)
    return pa.schema(
        [("content", _CONTENT, False), ("vector", vector, False), ("reason", pa.string())]
    )
