"""Recognise files with other content than expected, as after an incomplete download."""

import re
from pathlib import Path

_LFS_POINTER = b"version https://git-lfs"
_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml|head|body)", re.IGNORECASE)
_HEAD_BYTES = 4096
# Magic numbers of gzip, zstd, xz, bzip2 and zip.
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh", b"PK\x03\x04")


def foreign_content(path: Path) -> tuple[str, str] | None:
    """Return the fault and its fix if a file is a Git LFS pointer or a web page, otherwise None."""
    head = _head(path)
    if head.startswith(_LFS_POINTER):
        return "a Git LFS pointer, not the file itself", "run git lfs pull in its repository"
    if _WEB_PAGE.match(head):
        return "a web page, perhaps that of a login or an error", "download the file itself"
    return None


def is_binary(path: Path) -> bool:
    """Return whether a file is compressed, or binary (a NUL is in its first 4,096 bytes)."""
    head = _head(path)
    return head.startswith(_COMPRESSED) or b"\0" in head


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)
