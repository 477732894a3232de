"""One file of the vector store: how it is laid out, named, written, and read with suspicion.

A shard is a parquet file with one row per content: `content` (the SHA-256 of what was encoded),
`vector` (fixed-size list of float32) and `reason` (null, or why there is no vector, which is then
all zeros). The metadata of its schema names the encoder, the reader of the contents, and holds the
encoder's notes.
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

Notes = dict[str, float | int | str]

KEY = np.dtype("V32")
"""Contents in numpy: 32 raw bytes, compared and sorted as bytes, zeros at their end included."""

_ROWS_PER_GROUP = 4096


class DamagedFileError(Exception):
    """A file of the vector store that must not be used; `reason` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def encoder_folder(identity: str) -> str:
    """Return the name of an encoder's folder: readable, and never the same for two identities."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", identity)[:180]
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def shard_name(contents: np.ndarray) -> str:
    """Return the file name of the shard that holds `contents` (`KEY`, in any order)."""
    return f"{hashlib.sha256(np.sort(contents).tobytes()).hexdigest()[:32]}.parquet"


def shard_paths(folder: Path) -> list[Path]:
    """Return the shard files of an encoder's folder, by name; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if re.fullmatch(r"[0-9a-f]{32}\.parquet", path.name)
    )


def write_shard(
    folder: Path,
    identity: str,
    contents: np.ndarray,
    vectors: np.ndarray,
    reasons: Mapping[int, str],
    reader: str,
    notes: list[Notes],
) -> Path:
    """Write a shard into the encoder's folder, whole or not at all; return its path.

    `contents` is `(n,) KEY`, distinct, and `vectors` `(n, D) float32` beside it; `reasons` is by
    row. A shard of the same contents is replaced.
    """
    schema = _schema(vectors.shape[1]).with_metadata(
        {
            "mmctr.identity": identity,
            "mmctr.reader": reader,
            "mmctr.notes": json.dumps(notes, sort_keys=True),
        }
    )
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    columns = [
        keys_to_arrow(contents),
        pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type),
        pa.array([reasons.get(row) for row in range(len(contents))], pa.string()),
    ]
    path = folder / shard_name(contents)
    with atomic_write(path) as temporary:
        # Neither hashes nor vectors have anything to compress.
        pq.write_table(
            pa.table(columns, schema=schema),
            temporary,
            row_group_size=_ROWS_PER_GROUP,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )
    return path


@dataclasses.dataclass(frozen=True)
class StoredShard:
    """An open shard file. `contents` is `(n,) KEY`; `reasons` says by row why a vector is missing.

    `notes` are those of the encoder, one for each shard that went into this file.
    """

    path: Path
    identity: str
    contents: np.ndarray
    reasons: dict[int, str]
    reader: str
    notes: list[Notes]
    width: int
    file: pq.ParquetFile

    @property
    def has_vector(self) -> np.ndarray:
        """Which rows have a vector, `(n,) bool`."""
        mask = np.ones(len(self.contents), dtype=bool)
        mask[list(self.reasons)] = False
        return mask

    def read_vectors(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows of the mask `wanted` `(n,) bool` and their `(m, width) float32` vectors.

        Comes in blocks, so that only a few thousand vectors are held beside the caller's. Raises
        `DamagedFileError`.
        """
        begin = 0
        for group in range(self.file.num_row_groups):
            end = begin + self.file.metadata.row_group(group).num_rows
            rows = begin + np.flatnonzero(wanted[begin:end])
            if len(rows):
                with damage_named(self.path):
                    column = self.file.read_row_group(group, columns=["vector"]).column(0)
                    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=True)
                    block = flat.reshape(end - begin, self.width)
                yield rows, block if len(rows) == len(block) else block[rows - begin]
            begin = end


@contextlib.contextmanager
def open_shard(path: Path) -> Iterator[StoredShard]:
    """Open a shard file and read all but its vectors.

    Raises `DamagedFileError` where the file is cut short, fails its checksums, is no shard, or is
    not what its name and folder say; `FileNotFoundError` where it has gone.
    """
    with damage_named(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    with file:
        with damage_named(path):
            shard = _read_all_but_vectors(path, file)
        yield shard


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file at `path` into `DamagedFileError`.

    What is wrong with the machine (no permission, no memory, too many open files) stays as it is:
    it says nothing about the file.
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
    data = pa.py_buffer(np.ascontiguousarray(keys).tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(keys), [None, data])


def keys_from_arrow(column: pa.ChunkedArray) -> np.ndarray:
    """Return a `fixed_size_binary(32)` column without nulls as `KEY`s."""
    chunks = [
        np.frombuffer(chunk.buffers()[1], KEY, count=len(chunk), offset=32 * chunk.offset)
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(chunks) if chunks else np.empty(0, KEY)


def _schema(width: int) -> pa.Schema:
    # Columns that admit no null are read faster.
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), width)
    return pa.schema(
        [
            pa.field("content", pa.binary(32), nullable=False),
            pa.field("vector", vector, nullable=False),
            pa.field("reason", pa.string()),
        ]
    )


def _read_all_but_vectors(path: Path, file: pq.ParquetFile) -> StoredShard:
    schema = file.schema_arrow
    metadata = schema.metadata or {}
    width = getattr(schema.field("vector").type, "list_size", 0) if "vector" in schema.names else 0
    if not schema.equals(_schema(width)) or b"mmctr.identity" not in metadata:
        raise DamagedFileError(path, "it is no shard of this store")
    identity = metadata[b"mmctr.identity"].decode()
    if encoder_folder(identity) != path.parent.name:
        raise DamagedFileError(path, f"it was made by another encoder, {identity}")
    table = file.read(columns=["content", "reason"])
    contents = keys_from_arrow(table.column("content"))
    if shard_name(contents) != path.name:
        raise DamagedFileError(path, "its name is not that of its contents")
    reasons = table.column("reason").combine_chunks()
    rows = np.flatnonzero(reasons.is_valid().to_numpy(zero_copy_only=False))
    return StoredShard(
        path=path,
        identity=identity,
        contents=contents,
        reasons={int(row): reasons[int(row)].as_py() for row in rows},
        reader=metadata[b"mmctr.reader"].decode(),
        notes=json.loads(metadata[b"mmctr.notes"]),
        width=width,
        file=file,
    )
