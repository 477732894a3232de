"""Finding the files of an MMCTR data set in a folder, however the copy is laid out."""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

REQUIRED_FILES = ("train.parquet", "valid.parquet", "test.parquet", "item_feature.parquet")
OPTIONAL_FILES = ("item_info.parquet",)
IMAGE_FOLDERS = ("item_images", "images")
_IMAGE_NAME = re.compile(r"(image)?[1-9][0-9]*(\.(?:jpg|jpeg|png|webp))", re.IGNORECASE)
_DEFAULT_PATTERN = "{item_id}.jpg"
_NEVER_SEARCHED = ("__MACOSX",)


class DataNotFoundError(FileNotFoundError):
    """Something of the data set is missing or stands there twice; the message says where."""


@dataclasses.dataclass(frozen=True)
class ImageIndex:
    """A folder of cover images, one file per item.

    `pattern` makes a file name from an `item_id` (`{item_id}.jpg`, `image{item_id}.jpg`);
    `n_files` counts the files in the folder whose names follow it.
    """

    folder: Path
    pattern: str
    n_files: int

    def path(self, item_id: int) -> Path:
        """Return where the image of the item is, or would be."""
        return self.folder / self.pattern.format(item_id=item_id)

    def names(self) -> list[str]:
        """Return the names of the files that follow the pattern, sorted."""
        before, after = self.pattern.split("{item_id}")
        follows = re.compile(f"{re.escape(before)}[1-9][0-9]*{re.escape(after)}")
        return sorted(name for name in _file_names(self.folder) if follows.fullmatch(name))

    def match(self, item_id: np.ndarray) -> np.ndarray:
        """Return for each of the `(N,)` ids whether it has an image file, `(N,) bool`.

        Lists the folder once. Raises `DataNotFoundError` where not one id has a file.
        """
        before, after = self.pattern.split("{item_id}")
        numbers = [name[len(before) : len(name) - len(after)] for name in self.names()]
        # A name with more digits than an id can have belongs to no item and would not fit int64.
        on_disk = np.array([int(number) for number in numbers if len(number) < 18], dtype=np.int64)
        found = np.isin(item_id, on_disk)
        if not found.any():
            raise DataNotFoundError(self._nothing_matches(item_id))
        return found

    def _nothing_matches(self, item_id: np.ndarray) -> str:
        example = int(item_id[0]) if len(item_id) else 1
        names = sorted(_file_names(self.folder))
        there = ", ".join(names[:3]) if names else "no file at all"
        return (
            f"not one of {len(item_id):,} items has an image in {self.folder}: looked for names "
            f"such as {example}.jpg and image{example}.jpg (or .jpeg, .png, .webp); "
            f"there are {len(names):,} files, such as {there}. Fix: name the files "
            "{item_id}.jpg, or choose a preset that uses no images"
        )


@dataclasses.dataclass(frozen=True)
class DataLayout:
    """Where each file of the data set is; `description` says it in a few readable lines."""

    root: Path
    train: Path
    valid: Path
    test: Path
    item_info: Path | None
    item_feature: Path
    images: ImageIndex | None
    description: str


def find_data(folder: Path) -> DataLayout:
    """Find the data set in `folder`: files in it or one folder below, images up to two below.

    Raises `DataNotFoundError` naming what was looked for where, or the two places of what stands
    there twice. Images, and `item_info.parquet`, may be absent.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataNotFoundError(f"{root} is not a folder. Fix: MMCTR_DATA_DIR must name the data")
    places = [root, *_subfolders(root)]
    paths = {name: _find_file(name, places) for name in REQUIRED_FILES + OPTIONAL_FILES}
    files = {name: path for name, path in paths.items() if path is not None}
    missing = [name for name in REQUIRED_FILES if name not in files]
    if missing:
        raise DataNotFoundError(_what_is_missing(missing, root, places))
    images = _find_images(places)
    return DataLayout(
        root=root,
        train=files["train.parquet"],
        valid=files["valid.parquet"],
        test=files["test.parquet"],
        item_info=files.get("item_info.parquet"),
        item_feature=files["item_feature.parquet"],
        images=images,
        description=_describe(root, files, images),
    )


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _is_folder(entry)]
    return [
        folder / name
        for name in sorted(names)
        if not name.startswith(".") and name not in _NEVER_SEARCHED
    ]


def _find_file(name: str, places: Iterable[Path]) -> Path | None:
    found = [place / name for place in places if (place / name).is_file()]
    return _only(found, name)


def _only(found: list[Path], what: str) -> Path | None:
    """Return the single path, or None; two that are not one and the same file are an error."""
    for other in found[1:]:
        if not other.samefile(found[0]):
            raise DataNotFoundError(
                f"{what} stands in two places: {found[0]} and {other}. Fix: remove one of them, "
                "or name the folder of one copy"
            )
    return found[0] if found else None


def _what_is_missing(missing: list[str], root: Path, places: list[Path]) -> str:
    where = ", ".join(str(place) for place in places[:6])
    more = f" and {len(places) - 6} more folders" if len(places) > 6 else ""
    message = f"{', '.join(missing)} not found; looked in {where}{more}"
    if all((root.parent / name).is_file() for name in missing):
        return f"{message}. Fix: name the folder above, {root.parent}, which has it"
    return (
        f"{message}. Fix: copy the file there; the layouts known are all files in one folder, and "
        "the splits in a folder such as MicroLens_1M_x1 beside item_feature.parquet"
    )


def _find_images(places: list[Path]) -> ImageIndex | None:
    candidates = [place / name for place in places for name in IMAGE_FOLDERS]
    names = {folder: _file_names(folder) for folder in candidates if folder.is_dir()}
    patterns = {folder: _patterns(names[folder]) for folder in names}
    matching = _only([folder for folder in names if patterns[folder]], "a folder of images")
    if matching is not None:
        n_files, pattern = max((count, text) for text, count in patterns[matching].items())
        return ImageIndex(matching, pattern, n_files)
    # Names that no item can have are an error only for those who ask for images.
    filled = [folder for folder in names if names[folder]] or list(names)
    return ImageIndex(filled[0], _DEFAULT_PATTERN, 0) if filled else None


def _patterns(names: list[str]) -> collections.Counter[str]:
    """Count the image names by their pattern."""
    matches = [match for match in map(_IMAGE_NAME.fullmatch, names) if match]
    return collections.Counter(f"{match[1] or ''}{{item_id}}{match[2]}" for match in matches)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link in a circle is neither folder nor file; encoding counts it among the unreadable.
        return False


def _file_names(folder: Path) -> list[str]:
    """Return the names of the visible files, in no order."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not _is_folder(entry)]
    return [name for name in names if not name.startswith(".")]


def _describe(root: Path, files: dict[str, Path], images: ImageIndex | None) -> str:
    lines = [f"data set in {root}"]
    for name in REQUIRED_FILES + OPTIONAL_FILES:
        found = "none"
        if name in files:
            size = files[name].stat().st_size / 1e6
            found = f"{files[name].relative_to(root)} ({size:,.1f} MB)"
        lines.append(f"  {name:<21} {found}")
    found = "none"
    if images is not None:
        others = len(_file_names(images.folder)) - images.n_files
        ignored = f"; {others:,} files of other names ignored" if others else ""
        place = images.folder.relative_to(root) / images.pattern
        found = f"{place} ({images.n_files:,} files{ignored})"
    lines.append(f"  {'images':<21} {found}")
    return "\n".join(lines)
