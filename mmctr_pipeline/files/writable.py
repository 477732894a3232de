"""Check before a long run that a folder can be written to."""

import errno
import os
import tempfile
from pathlib import Path

from mmctr_pipeline.files.errors import naming_write_errors


def require_writable(folder: Path, variable: str | None = None) -> None:
    """Create a folder if needed and write a file to it; raise `WriteError` if that fails.

    `variable` is the environment variable that names the folder; by default `place_advice` derives
    it from the path.
    """
    with naming_write_errors(folder, variable):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # from file systems such as /proc
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(folder)) from error
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
