"""Recognise symbolic links that lead out of the data folder, which are never followed."""

import os
from pathlib import Path

from mmctr_pipeline.data.validation import DataError


def leads_outside(path: Path | str, root: Path | str) -> bool:
    """Return whether `path` is reached through a link that leads out of the folder `root`.

    If `root` itself is a link, the folder that it leads to counts as the root.
    """
    inside = os.path.realpath(root)
    return os.path.commonpath([inside, os.path.realpath(path)]) != inside


def refuse_link_outside(path: Path, root: Path) -> None:
    """Raise `DataError` if `path` is reached through a link that leads out of `root`."""
    if leads_outside(path, root):
        raise DataError(
            path,
            f"a symbolic link leads to {os.path.realpath(path)}, outside the data folder {root}",
            f"copy the data into {root}, or set MMCTR_DATA_DIR to the folder the link leads to",
        )
