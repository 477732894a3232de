"""Fingerprints of source files, which do not depend on the folder that holds the files."""

import hashlib
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mmctr_pipeline.data.images import ImageIndex
from mmctr_pipeline.data.tables import Table
from mmctr_pipeline.files.progress import Progress

logger = logging.getLogger(__name__)

_THREADS = 8


def fingerprint_files(tables: Iterable[Path | Table]) -> str:
    """Return the SHA-256 (hex) of the contents of the files, in the given order.

    The part files of a table count as one file. The hash ignores names, folders and times. Swapping
    two files changes the hash.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        digests = list(threads.map(_table_digest, tables))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def fingerprint_images(index: ImageIndex) -> str:
    """Return the SHA-256 (hex) of the names and contents of the images, sorted by name.

    It covers the files that the index lists. A file that cannot be opened, such as a broken link,
    counts as unreadable, as it does in encoding. The log says how many these are.
    """
    names = index.names()
    progress = Progress(logger, "fingerprint of the images", len(names), "files")
    overall = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as threads:
        digests = threads.map(lambda name: _digest_if_readable(index.folder / name), names)
        n_unreadable = 0
        for name, digest in zip(names, digests, strict=True):
            overall.update(name.encode() + b"\0" + (digest or b"unreadable"))
            n_unreadable += digest is None
            progress.advance()
    if n_unreadable:
        logger.warning(f"{n_unreadable:,} of {len(names):,} images cannot be opened")
    return overall.hexdigest()


def fingerprint_array(*arrays: np.ndarray) -> str:
    """Return the SHA-256 (hex) of type, shape and values of the arrays."""
    overall = hashlib.sha256()
    for array in arrays:
        overall.update(f"{array.dtype.str}{array.shape}".encode())
        overall.update(np.ascontiguousarray(array).data)
    return overall.hexdigest()


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of the contents of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _table_digest(source: Path | Table) -> bytes:
    """Return the digest of a file, or of the digests of a table's part files."""
    table = source if isinstance(source, Table) else Table.at(source)
    if not table.has_parts:
        return file_digest(table.path)
    return hashlib.sha256(b"".join(map(file_digest, table.files))).digest()


def _digest_if_readable(path: Path) -> bytes | None:
    try:
        # `is_file` leaves out pipes: opening one would wait for a writer.
        return file_digest(path) if path.is_file() else None
    except OSError:
        return None
