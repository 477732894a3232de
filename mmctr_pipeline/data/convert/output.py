"""The folder of a conversion: replaced as a whole, and only if a conversion wrote it."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmctr_pipeline.data.images import ImageIndex
from mmctr_pipeline.files.errors import naming_write_errors
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.files.writable import require_writable
from mmctr_pipeline.settings import SettingsError

logger = logging.getLogger(__name__)

RECORD = "conversion.json"
"""Source, settings and counts of a conversion, and the names of everything in its folder."""

IMAGES = "item_images"


def require_replaceable(output: Path) -> None:
    """Raise `SettingsError` if `output` holds anything that no conversion wrote."""
    require_writable(output.parent)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    written: list[str] = []
    if (output / RECORD).is_file():
        with contextlib.suppress(json.JSONDecodeError, KeyError, UnicodeDecodeError):
            written = json.loads((output / RECORD).read_text(encoding="utf-8"))["files"]
    existing = sorted(os.listdir(output)) if output.is_dir() else [output.name]
    if foreign := [name for name in existing if name not in written]:
        raise SettingsError(
            f"{output} holds {', '.join(foreign[:3])}, which no conversion wrote. Fix: name "
            "another folder with --output, or move these files away"
        )


@contextlib.contextmanager
def replaced_folder(output: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, and then replace `output` with it.

    After an error the folder is removed and `output` stays as it was. Raises `SettingsError` as
    `require_replaceable` does, and `WriteError`.
    """
    temporary, old = (output.with_name(f".{output.name}.{name}") for name in ("making", "old"))
    with naming_write_errors(output), locked(output.with_name(f".{output.name}.lock")):
        require_replaceable(output)
        # This process holds the lock, so these folders are leftovers of killed processes.
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            if output.exists():
                os.rename(output, old)
            os.rename(temporary, output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def write_record(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the record, which lists the files in `folder`; call it last."""
    files = sorted([*os.listdir(folder), RECORD])
    text = json.dumps({**facts, "files": files}, indent=2)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def add_images(images: ImageIndex, item_id: np.ndarray, folder: Path) -> int:
    """Put the images of items (`(I,)` ids) into `folder/item_images`; return their number.

    They are hard links where the disk allows it, and copies elsewhere. Raises `DataNotFoundError`
    if no item has an image.
    """
    with_image = item_id[images.match(item_id)].tolist()
    progress = Progress(logger, IMAGES, len(with_image), "images")
    (folder / IMAGES).mkdir()
    for item in with_image:
        path = images.path(item)
        assert path is not None
        target = folder / IMAGES / f"{item}{path.suffix.lower()}"
        try:
            os.link(path.resolve(), target)
        except OSError:  # another disk, or a disk without hard links
            shutil.copyfile(path, target)
        progress.advance()
    logger.info(
        f"{len(with_image):,} of {len(item_id):,} items have an image in {images.folder}: "
        f"{images.describe()}"
    )
    return len(with_image)
