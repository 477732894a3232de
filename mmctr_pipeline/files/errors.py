"""Errors about stored files: damaged ones, and those that cannot be written."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmctr_pipeline.environment import place_advice


class DamagedFileError(ValueError):
    """A stored file must not be used; the message names it and says why."""


class WriteError(OSError):
    """A file cannot be written; the message names it and says why."""

    def __str__(self) -> str:
        return self.strerror or ""


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = {
    *(*_NO_SPACE, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOLCK, errno.EOPNOTSUPP),
}


@contextlib.contextmanager
def naming_write_errors(path: Path, variable: str | None = None) -> Iterator[None]:
    """Turn errors of disk and permissions into a `WriteError` about `path`.

    Errors about files in other folders pass unchanged. `variable` is the environment variable that
    chose the path; by default `place_advice` derives it from the path.
    """
    try:
        yield
    except OSError as error:
        name = str(error.filename or path)
        is_above = str(path).startswith(name)
        if error.errno not in _UNWRITABLE or not (is_above or name.startswith(str(path.parent))):
            raise
        reason = os.strerror(error.errno)
        if error.errno in _NO_SPACE:
            reason += f" ({shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free there)"
        elif is_above and name != str(path):
            reason += f" ({name})"
        text = f"cannot write {path}: {reason}. {place_advice(path, error.errno, variable)}"
        raise WriteError(error.errno, text, str(path)) from error
