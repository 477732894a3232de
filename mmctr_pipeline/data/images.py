"""Find the cover images of items: files named by the item's id, of any supported format."""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mmctr_pipeline.data.links import leads_outside, refuse_link_outside
from mmctr_pipeline.data.validation import DataNotFoundError

IMAGE_FOLDERS = ("item_images", "images")
NEVER_SEARCHED = ("__MACOSX",)
EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""Extensions of covers, in upper or lower case, in the order of preference."""

_NUMBERED = re.compile(r"(image)?[0-9]+")


@dataclasses.dataclass(frozen=True)
class ImageIndex:
    """The cover images of a folder, listed once.

    The name of a file without its extension is the item's id, or `image` and the id. If an item has
    several files, one is chosen by these preferences, in this order: a name without `image`, the
    earliest extension in `EXTENSIONS`, an extension in lower case, a file in the folder itself over
    one in a subfolder, the first by name.

    Parameters
    ----------
    folder
        The folder.
    files
        Files by name without extension, relative to the folder: `12.jpg`, `07/12.PNG`.
    outside
        Names without extension of links that lead out of the data folder; they are not read.
    n_unused
        Number of files that are not used because another file of the same item is used.
    n_ignored
        Number of files whose extension is not that of an image.
    n_refused
        Number of links out of the data folder, also those of items that have another file.
    url
        URL of the folder if it is not on a disk (`data.image_url`); `folder` is then not used.
    """

    folder: Path
    files: dict[str, str]
    outside: frozenset[str] = frozenset()
    n_unused: int = 0
    n_ignored: int = 0
    n_refused: int = 0
    url: str = ""

    @property
    def place(self) -> str:
        """The folder or its URL, for messages."""
        return self.url or str(self.folder)

    @property
    def is_numbered(self) -> bool:
        """True if any file is named by a number, or by `image` and a number."""
        return any(map(_NUMBERED.fullmatch, (*self.files, *self.outside)))

    @property
    def has_images(self) -> bool:
        """True if any file is an image by its extension."""
        return bool(self.files or self.outside)

    def path(self, item_id: int | str) -> Path | None:
        """Return the path of an item's image, or None."""
        name = self._name(item_id)
        return None if name is None else self.folder / name

    def location(self, item_id: int | str) -> Path | str | None:
        """Return the path or the URL of an item's image, or None."""
        name = self._name(item_id)
        return f"{self.url}/{name}" if name and self.url else self.path(item_id)

    def leads_outside(self, item_id: int | str) -> bool:
        """Return whether an item's image is a link that leads out of the data folder."""
        return any(stem in self.outside for stem in _stems(item_id))

    def names(self) -> list[str]:
        """Return the files relative to the folder, sorted."""
        return sorted(self.files.values())

    def match(self, item_id: np.ndarray) -> np.ndarray:
        """Return for each of the `(N,)` ids whether it has an image file, `(N,) bool`.

        Raises `DataNotFoundError` if no id has a file.
        """
        found = self.has_file(item_id)
        if not found.any():
            raise DataNotFoundError(self._no_match(item_id))
        return found

    def has_file(self, item_id: np.ndarray) -> np.ndarray:
        """Return for each of the `(N,)` ids whether it has an image file, `(N,) bool`."""
        return np.array([self._name(item) is not None for item in item_id.tolist()], dtype=bool)

    def describe(self) -> str:
        """Return in a few words what the folder holds."""
        patterns = collections.Counter(map(_pattern, self.files.values()))
        listed = ", ".join(pattern for pattern, _ in patterns.most_common()) or "no images"
        facts = [f"{len(self.files):,} files"]
        n_unused, n_refused = self.n_unused, self.n_refused
        facts += [f"{n_unused:,} more unused, as their items have another"] if n_unused else []
        facts += [f"{self.n_ignored:,} other files ignored"] if self.n_ignored else []
        facts += [f"{n_refused:,} links out of the data folder refused"] if n_refused else []
        return f"{listed} ({'; '.join(facts)})"

    def _name(self, item_id: int | str) -> str | None:
        return next((self.files[stem] for stem in _stems(item_id) if stem in self.files), None)

    def _no_match(self, item_id: np.ndarray) -> str:
        n_outside = sum(map(self.leads_outside, item_id.tolist()))
        if n_outside:
            return (
                f"the images of {n_outside:,} items in {self.folder} are links that lead out of "
                "the data folder, and the other items have none. Fix: copy the images into the "
                "folder, or set MMCTR_DATA_DIR to a folder that holds them"
            )
        example = item_id[0] if len(item_id) else 1
        names = self.names()
        if not names and not self.url:
            names = sorted(entry.name for _, entry in _entries(self.folder))
        there = f", such as {', '.join(names[:3])}" if names else ""
        n_files = len(self.files) + self.n_ignored + self.n_unused
        return (
            f"none of the {len(item_id):,} items has an image in {self.place}: looked for names "
            f"such as {example}.jpg and image{example}.jpg (or .jpeg, .png, .webp); "
            f"the folder has {n_files:,} files{there}. Fix: name the files "
            "{item_id}.jpg, or choose a preset that uses no images"
        )


def index_images(folder: Path, root: Path | None = None) -> ImageIndex:
    """List the images in `folder` and in its subfolders, one level deep.

    Skips hidden files, and subfolders named in `IMAGE_FOLDERS` or `NEVER_SEARCHED`. `root` is the
    data folder, by default `folder`: links that lead out of it are not followed. Raises `DataError`
    for a subfolder that is such a link.
    """
    root = folder if root is None else root
    names, outside = [], set()
    n_refused = 0
    for name, entry in _entries(folder, root):
        stem = _stem(entry.name)
        if stem is not None and entry.is_symlink() and leads_outside(entry.path, root):
            outside.add(stem)
            n_refused += 1
        else:
            names.append(name)
    index = _index_names(names, folder)
    outside -= index.files.keys()
    return dataclasses.replace(index, outside=frozenset(outside), n_refused=n_refused)


def index_url(names: Iterable[str], url: str) -> ImageIndex:
    """Index the files of the folder at a URL as `index_images` does, given their relative names."""
    visible = [
        name
        for name in names
        if not any(part.startswith(".") for part in name.split("/"))
        and name.split("/")[0] not in (*IMAGE_FOLDERS, *NEVER_SEARCHED)
    ]
    return dataclasses.replace(_index_names(visible, Path()), url=url.rstrip("/"))


def _index_names(names: Iterable[str], folder: Path) -> ImageIndex:
    """Choose one file per item among files relative to a folder."""
    files: dict[str, str] = {}
    n_images = n_ignored = 0
    for name in names:
        stem = _stem(name.rpartition("/")[2])
        if stem is None:
            n_ignored += 1
            continue
        n_images += 1
        other = files.setdefault(stem, name)
        if other != name:
            files[stem] = min(other, name, key=_preference)
    n_twice = sum(stem[5:] in files for stem in files if stem.startswith("image"))
    n_unused = n_images - len(files) + n_twice
    return ImageIndex(folder, files, n_unused=n_unused, n_ignored=n_ignored)


def _entries(folder: Path, root: Path | None = None) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the visible files of a folder and its subfolders with their relative names."""
    subfolders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # A folder named like an image is listed; encoding reports it as unreadable.
            if _stem(entry.name) is not None or not os.path.isdir(entry.path):
                yield entry.name, entry
            elif entry.name not in (*IMAGE_FOLDERS, *NEVER_SEARCHED):
                subfolders.append(entry)
    for subfolder in subfolders:
        refuse_link_outside(Path(subfolder.path), root or folder)
        with os.scandir(subfolder.path) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield f"{subfolder.name}/{entry.name}", entry


def _stem(name: str) -> str | None:
    """Return the name of an image without its extension, or None for other files."""
    stem, _, extension = name.rpartition(".")
    return stem if stem and extension.lower() in EXTENSIONS else None


def _stems(item_id: int | str) -> tuple[str, str]:
    return str(item_id), f"image{item_id}"


def _preference(name: str) -> tuple[int, bool, bool, str]:
    """Return the key that sorts the files of an item, the best first."""
    extension = name.rpartition(".")[2]
    lower = extension.lower()
    return EXTENSIONS.index(lower), extension != lower, "/" in name, name


def _pattern(name: str) -> str:
    """Return a file name with `{item_id}` in place of the id."""
    folder, _, name = name.rpartition("/")
    stem, _, extension = name.rpartition(".")
    match = _NUMBERED.fullmatch(stem)
    prefix = match[1] or "" if match else ""
    return f"{'*/' if folder else ''}{prefix}{{item_id}}.{extension}"
