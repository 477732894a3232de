"""Finds the files of an MMCTR data set in a folder, flat or nested."""

import collections
import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

REQUIRED_FILES = ("train.parquet", "valid.parquet", "test.parquet", "item_feature.parquet")
OPTIONAL_FILES = ("item_info.parquet",)
IMAGE_FOLDERS = ("item_images", "images")
_IMAGE_NAME = re.compile(r"(image)?[1-9][0-9]*(\.(?:jpg|jpeg|png|webp))", re.IGNORECASE)
_DEFAULT_PATTERN = "{item_id}.jpg"
_NEVER_SEARCHED = ("__MACOSX",)


class DataNotFoundError(FileNotFoundError):
    """A part of the data set is missing or ambiguous; the message says where."""


@dataclasses.dataclass(frozen=True)
class ImageIndex:
    """A folder of cover images, one file per item.

    `pattern` maps an `item_id` to a file name (`{item_id}.jpg`, `image{item_id}.jpg`); `n_files`
    counts the files in the folder whose names match it.
    """

    folder: Path
    pattern: str
    n_files: int

    def path(self, item_id: int) -> Path:
        """Return the path of an item's image, whether it exists or not."""
        return self.folder / self.pattern.format(item_id=item_id)

    def names(self) -> list[str]:
        """Return the names of the files that match the pattern, sorted."""
        return sorted(self._digits_by_name())

    def match(self, item_id: np.ndarray) -> np.ndarray:
        """Return for each of the `(N,)` ids whether it has an image file, `(N,) bool`.

        Lists the folder once. Raises `DataNotFoundError` if no id has a file.
        """
        digits = self._digits_by_name().values()
        # More digits than an id can have belong to no item, and would not fit into int64.
        on_disk = np.array([int(number) for number in digits if len(number) < 18], dtype=np.int64)
        found = np.isin(item_id, on_disk)
        if not found.any():
            raise DataNotFoundError(self._no_match(item_id))
        return found

    def _digits_by_name(self) -> dict[str, str]:
        """Return the digits of the id in each file name that matches the pattern."""
        before, after = map(re.escape, self.pattern.split("{item_id}"))
        matches = map(re.compile(f"{before}([1-9][0-9]*){after}").fullmatch, _files(self.folder))
        return {match.string: match[1] for match in matches if match}

    def _no_match(self, item_id: np.ndarray) -> str:
        example = int(item_id[0]) if len(item_id) else 1
        names = sorted(_files(self.folder))
        there = f", such as {', '.join(names[:3])}" if names else ""
        return (
            f"none of {len(item_id):,} items has an image in {self.folder}: looked for names "
            f"such as {example}.jpg and image{example}.jpg (or .jpeg, .png, .webp); "
            f"the folder has {len(names):,} files{there}. Fix: name the files "
            "{item_id}.jpg, or choose a preset that uses no images"
        )


@dataclasses.dataclass(frozen=True)
class DataLayout:
    """Paths of the data set's files; `description` lists them for people."""

    root: Path
    train: Path
    valid: Path
    test: Path
    item_info: Path | None
    item_feature: Path
    images: ImageIndex | None
    description: str


def find_data(folder: Path) -> DataLayout:
    """Find the data set in `folder`: files there or one folder below, images up to two below.

    Raises `DataNotFoundError` naming what was looked for and where, or the two paths of a file
    found twice. Images and `item_info.parquet` may be absent.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataNotFoundError(f"{root} is not a folder. Fix: MMCTR_DATA_DIR must name the data")
    places = [root, *_subfolders(root)]
    files = {
        name: _only([place / name for place in places if (place / name).is_file()], name)
        for name in REQUIRED_FILES + OPTIONAL_FILES
    }
    missing = [name for name in REQUIRED_FILES if files[name] is None]
    if missing:
        raise DataNotFoundError(_missing_files(missing, root, places))
    images = _find_images(places)
    paths: dict[str, Any] = {Path(name).stem: path for name, path in files.items()}
    return DataLayout(root=root, images=images, description=_describe(root, files, images), **paths)


def _only(found: list[Path], what: str) -> Path | None:
    """Return the single path, or None; raise for two that are not the same file."""
    for other in found[1:]:
        if not other.samefile(found[0]):
            raise DataNotFoundError(
                f"found {what} twice: {found[0]} and {other}. Fix: remove one of them, "
                "or name the folder of one copy"
            )
    return found[0] if found else None


def _missing_files(missing: list[str], root: Path, places: list[Path]) -> str:
    where = ", ".join(map(str, places[:6]))
    more = f" and {len(places) - 6} more folders" if len(places) > 6 else ""
    message = f"{', '.join(missing)} not found; looked in {where}{more}"
    if all((root.parent / name).is_file() for name in missing):
        return f"{message}. Fix: name the folder above, {root.parent}, which has it"
    return (
        f"{message}. Fix: copy the file there; known layouts are all files in one folder, and "
        "the splits in a folder such as MicroLens_1M_x1 beside item_feature.parquet"
    )


def _find_images(places: list[Path]) -> ImageIndex | None:
    candidates = [place / name for place in places for name in IMAGE_FOLDERS]
    names = {folder: _files(folder) for folder in candidates if folder.is_dir()}
    patterns = {folder: _patterns(names[folder]) for folder in names}
    matching = _only([folder for folder in names if patterns[folder]], "a folder of images")
    if matching is not None:
        n_files, pattern = max((count, text) for text, count in patterns[matching].items())
        return ImageIndex(matching, pattern, n_files)
    # File names that match no item are an error only for recipes that use images.
    filled = [folder for folder in names if names[folder]] or list(names)
    return ImageIndex(filled[0], _DEFAULT_PATTERN, 0) if filled else None


def _patterns(names: list[str]) -> collections.Counter[str]:
    """Count the image names by their pattern."""
    matches = [match for match in map(_IMAGE_NAME.fullmatch, names) if match]
    return collections.Counter(f"{match[1] or ''}{{item_id}}{match[2]}" for match in matches)


def _subfolders(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(_visible(folder)[0]) if name not in _NEVER_SEARCHED]


def _files(folder: Path) -> list[str]:
    return _visible(folder)[1]


def _visible(folder: Path) -> list[list[str]]:
    """Return the names of the visible folders and of the visible files in `folder`, in no order.

    A circular link counts as a file; encoding then reports it as unreadable.
    """

    def fail(error: OSError) -> None:
        raise error

    _, *names = next(os.walk(folder, onerror=fail))
    return [[name for name in kind if not name.startswith(".")] for kind in names]


def _describe(root: Path, files: dict[str, Path | None], images: ImageIndex | None) -> str:
    found = {
        name: f"{path.relative_to(root)} ({path.stat().st_size / 1e6:,.1f} MB)"
        for name, path in files.items()
        if path is not None
    }
    if images is not None:
        others = len(_files(images.folder)) - images.n_files
        ignored = f"; {others:,} files of other names ignored" if others else ""
        place = images.folder.relative_to(root) / images.pattern
        found["images"] = f"{place} ({images.n_files:,} files{ignored})"
    names = (*REQUIRED_FILES, *OPTIONAL_FILES, "images")
    lines = [f"  {name:<21} {found.get(name, 'none')}" for name in names]
    return "\n".join([f"data set in {root}", *lines])
