"""A CRC-32 inside a file, over all its other bytes, for parquet, `.pt` and JSON files.

A writer puts the entry `KEY: BLANK` near the end of the file, as metadata or as a comment, and
calls `seal`. Readers call `verify`. Files without the entry are accepted, as earlier versions of
the pipeline wrote none.
"""

import io
import os
import re
import sys
import zlib
from pathlib import Path

from mmctr_pipeline.files.errors import DamagedFileError

KEY = "mmctr.crc32"
"""Name of the entry."""

BLANK = "00000000"
"""Value of the entry before the checksum is known, and while it is computed."""

_ENTRY = re.compile(re.escape(KEY.encode()) + rb".{2,4}?([0-9a-f]{8})", re.DOTALL)
_TAIL_BYTES = 2**20
_BLOCK_BYTES = 2**18

_File = io.BufferedReader | io.BufferedRandom


def seal(path: Path) -> str:
    """Replace `BLANK` in a finished file by the checksum, and return the checksum.

    Raises `ValueError` if the last MiB of the file has no entry.
    """
    with path.open("r+b") as file:
        position = _find_digits(file)
        checksum, recorded = ("", "") if position is None else _compute(file, position)
        if position is None or recorded != BLANK:
            raise ValueError(f"{path} has no entry {KEY}: {BLANK} to put its checksum in")
        file.seek(position)
        file.write(checksum.encode())
    return checksum


def verify(file: io.BufferedReader, path: Path) -> str | None:
    """Verify an open file and go back to its start; return its checksum, or None if it has none.

    Raises `DamagedFileError` if the recorded checksum differs. `path` names the file in the
    message.
    """
    position = _find_digits(file)
    if position is None:
        file.seek(0)
        return None
    checksum, recorded = _compute(file, position)
    if checksum != recorded:
        raise DamagedFileError(
            f"{path} is damaged: its checksum is {checksum}, but {recorded} was recorded"
        )
    file.seek(0)
    return checksum


def _find_digits(file: _File) -> int | None:
    """Return the position of the digits in the last entry, or None if there is no entry."""
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(size - _TAIL_BYTES, 0))
    entries = list(_ENTRY.finditer(file.read()))
    return start + entries[-1].start(1) if entries else None


def _compute(file: _File, position: int) -> tuple[str, str]:
    """Return the checksum of a file, and the digits recorded at `position`."""
    file.seek(0)
    before = _crc32(file, position, 0)
    digits = file.read(len(BLANK))
    whole = _crc32(file, sys.maxsize, zlib.crc32(BLANK.encode(), before))
    return f"{whole:08x}", digits.decode()


def _crc32(file: _File, n_bytes: int, crc: int) -> int:
    """Continue a checksum over the next `n_bytes` of a file, or up to its end."""
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    while n_bytes > 0 and (n_read := file.readinto(buffer[:n_bytes])):
        crc = zlib.crc32(buffer[:n_read], crc)
        n_bytes -= n_read
    return crc
