"""Convert a download of MovieLens or MicroLens to the layout of the MMCTR data set."""

import logging
from collections.abc import Sequence
from pathlib import Path

from mmctr_pipeline.data.convert.config import ConvertConfig, MicroLensConfig, MovieLensConfig
from mmctr_pipeline.data.convert.microlens import COVER_FOLDERS, read_microlens
from mmctr_pipeline.data.convert.movielens import POSTER_FOLDERS, read_movielens
from mmctr_pipeline.data.convert.negatives import with_negatives
from mmctr_pipeline.data.convert.output import (
    add_images,
    replaced_folder,
    require_replaceable,
    write_record,
)
from mmctr_pipeline.data.convert.raw_files import RawData, find_optional
from mmctr_pipeline.data.convert.splits import Rows, in_time_order, split_rows
from mmctr_pipeline.data.convert.write import write_tables
from mmctr_pipeline.data.images import ImageIndex, index_images
from mmctr_pipeline.data.validation import DataNotFoundError

logger = logging.getLogger(__name__)


def convert_movielens(
    folder: Path, output: Path, config: MovieLensConfig, posters: Path | None = None
) -> None:
    """Write explicit ratings as rows with label 1 or 0; histories hold the liked items.

    Raises `DataError`, `DataNotFoundError`, `SettingsError` and `WriteError`.

    Parameters
    ----------
    folder
        The unpacked download, see `movielens`.
    output
        The new data folder; one that an earlier conversion wrote is replaced.
    config
        Which rows to write.
    posters
        Folder of posters named by movie id; by default `POSTER_FOLDERS` in `folder`.
    """
    require_replaceable(output)
    images = _images(folder, posters, POSTER_FOLDERS)
    raw = read_movielens(folder, config)
    rows = split_rows(in_time_order(raw.interactions, config), config)
    _write(folder, output, config, raw, rows, images)


def convert_microlens(
    folder: Path, output: Path, config: MicroLensConfig, covers: Path | None = None
) -> None:
    """Write interactions as rows with label 1, and drawn items as rows with label 0.

    Raises `DataError`, `DataNotFoundError`, `SettingsError` and `WriteError`.

    Parameters
    ----------
    folder
        The unpacked download, see `microlens`.
    output
        The new data folder; one that an earlier conversion wrote is replaced.
    config
        Which rows to write, and how many negatives to draw.
    covers
        Folder of covers named by item id; by default `COVER_FOLDERS` in `folder`.
    """
    require_replaceable(output)
    images = _images(folder, covers, COVER_FOLDERS)
    raw = read_microlens(folder)
    ordered = in_time_order(raw.interactions, config)
    rows = with_negatives(split_rows(ordered, config), ordered, config, timed=raw.timed)
    _write(folder, output, config, raw, rows, images)


def _images(folder: Path, given: Path | None, names: Sequence[str]) -> ImageIndex | None:
    """Return the images of `given`, or else of a folder in `folder` with one of these names.

    Uses the first name that exists. Returns None if none exists, or if no image there has a number
    for its name.
    """
    if given is not None:
        if not given.is_dir():
            raise DataNotFoundError(f"{given} is not a folder. Fix: name the folder of the images")
        return index_images(given)
    found = find_optional(folder, *names)
    if found is not None and found.is_dir() and (images := index_images(found)).is_numbered:
        return images
    logger.info(
        f"no images: {folder} has no folder {' or '.join(names)} with images named by item. Choose "
        "a preset without covers, or unpack the images there and convert again"
    )
    return None


def _write(
    source: Path,
    output: Path,
    config: ConvertConfig,
    raw: RawData,
    rows: Rows,
    images: ImageIndex | None,
) -> None:
    with replaced_folder(output) as folder:
        counts = write_tables(folder, rows, raw)
        if images is not None:
            counts["images"] = add_images(images, raw.items["item_id"].to_numpy(), folder)
        facts = {
            "source": str(source.resolve()),
            "dataset": type(config).__name__.removesuffix("Config"),
            "settings": config.to_mapping(),
            "counts": counts,
        }
        write_record(folder, facts)
