"""Find the files of a data set in a folder, flat or nested: MMCTR's splits, or logs by day."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from mmctr_pipeline.data.days import DayLogs, has_days
from mmctr_pipeline.data.images import IMAGE_FOLDERS, NEVER_SEARCHED, ImageIndex, index_images
from mmctr_pipeline.data.links import refuse_link_outside
from mmctr_pipeline.data.tables import table_files
from mmctr_pipeline.data.validation import DataNotFoundError

REQUIRED_FILES = ("train.parquet", "valid.parquet", "test.parquet", "item_feature.parquet")
OPTIONAL_FILES = ("item_info.parquet",)
INTERACTIONS = "interactions"
CANDIDATES = "candidates"
_REPLACED_BY_DAYS = ("train.parquet", "valid.parquet")


@dataclasses.dataclass(frozen=True)
class DataLayout:
    """Paths of the data set's tables and images; `description` lists them for people.

    A table is a parquet file, a folder of part files under a parquet name, or a CSV file. With logs
    by day, `train`, `valid` and `interactions` are the folder of the days, and `test` may be a
    folder `candidates` of part files or of days; `data.window` chooses the files.
    """

    root: Path
    train: Path
    valid: Path
    test: Path
    item_info: Path | None
    item_feature: Path
    images: ImageIndex | None
    description: str
    interactions: Path | None = None


def find_data(folder: Path) -> DataLayout:
    """Find the data set in `folder`.

    Tables are found there and one folder below, images up to three folders below. A CSV file is
    used where there is no parquet of its name. Images and `item_info.parquet` may be absent. Logs
    by day, `interactions/day=YYYY-MM-DD`, replace train and valid, and a folder `candidates` may
    then replace test.

    Raises `DataNotFoundError` if a table is missing, with what was looked for and where. Raises it
    also if a table or an image folder is found twice, with both paths. Raises `DataError` for links
    that lead out of the folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataNotFoundError(f"{root} is not a folder. Fix: name the folder of the data")
    places = [root, *_subfolders(root)]
    files = {name: _find_table(places, name) for name in REQUIRED_FILES + OPTIONAL_FILES}
    interactions = _find_interactions(places, root)
    if interactions is not None:
        files = _with_days(files, interactions, _find_candidates(places))
    missing = [name for name in REQUIRED_FILES if files[name] is None]
    if missing:
        raise DataNotFoundError(_missing_files(missing, root, places))
    for path in filter(None, files.values()):
        refuse_link_outside(path, root)
        for part in _files(path):
            refuse_link_outside(part, root)
    images = _find_images(places, root)
    paths: dict[str, Any] = {Path(name).stem: path for name, path in files.items()}
    description = _describe(root, files, images)
    return DataLayout(
        root=root, images=images, description=description, interactions=interactions, **paths
    )


def find_interactions(folder: Path) -> Path | None:
    """Return the folder of logs by day in a data folder, or None; raises as `find_data` does."""
    root = Path(folder)
    return _find_interactions([root, *_subfolders(root)], root)


def _find_interactions(places: list[Path], root: Path) -> Path | None:
    folders = [place / INTERACTIONS for place in places]
    found = _only([path for path in folders if path.is_dir() and has_days(path)], INTERACTIONS)
    if found is not None:
        refuse_link_outside(found, root)
    return found


def _find_candidates(places: list[Path]) -> Path | None:
    return _only([path for place in places if (path := place / CANDIDATES).is_dir()], CANDIDATES)


def _with_days(
    files: dict[str, Path | None], interactions: Path, candidates: Path | None
) -> dict[str, Path | None]:
    """Put logs by day in the place of train and valid, and candidates in that of test."""
    replaced = dict.fromkeys(_REPLACED_BY_DAYS, interactions)
    if candidates is not None:
        replaced["test.parquet"] = candidates
    for name, path in replaced.items():
        if (other := files[name]) is not None:
            raise DataNotFoundError(
                f"found both {path} and {other}. Fix: move one of them out of the data folder"
            )
    return {**files, **replaced}


def _files(path: Path) -> list[Path]:
    """Return the files of a table; none for days, whose files are checked when they are chosen."""
    is_by_day = path.name in (INTERACTIONS, CANDIDATES) and has_days(path)
    return [] if is_by_day else table_files(path)


def _find_table(places: list[Path], name: str) -> Path | None:
    """Return the table of this parquet name, or the CSV file if there is only that."""
    tables = [place / name for place in places]
    found = _only([path for path in tables if path.is_file() or path.is_dir()], name)
    if found is not None:
        return found
    name = f"{Path(name).stem}.csv"
    return _only([place / name for place in places if (place / name).is_file()], name)


def _only(found: list[Path], what: str) -> Path | None:
    """Return the only path, or None if there is none; raise if there are two different ones."""
    for other in found[1:]:
        if not other.samefile(found[0]):
            raise DataNotFoundError(
                f"found {what} twice: {found[0]} and {other}. Fix: remove one of them, "
                "or name the folder of one copy"
            )
    return found[0] if found else None


def _missing_files(missing: list[str], root: Path, places: list[Path]) -> str:
    where = ", ".join(map(str, places[:6]))
    where += f" and {len(places) - 6} more folders" if len(places) > 6 else ""
    message = f"{', '.join(missing)} not found, and no .csv file instead; looked in {where}"
    if all((root.parent / name).exists() for name in missing):
        return f"{message}. Fix: name the folder above, {root.parent}: it has every missing table"
    return (
        f"{message}. Fix: copy what is missing there. All files may be in one folder, or the "
        "splits in a folder such as MicroLens_1M_x1 beside item_feature.parquet"
    )


def _find_images(places: list[Path], root: Path) -> ImageIndex | None:
    folders = [place / name for place in places for name in IMAGE_FOLDERS]
    folders = [folder for folder in folders if folder.is_dir()]
    for folder in folders:
        refuse_link_outside(folder, root)
    indexes = {folder: index_images(folder, root) for folder in folders}
    # Files named by a number are covers. Other images may be logos or sprites.
    filled = [folder for folder in folders if indexes[folder].is_numbered]
    filled = filled or [folder for folder in folders if indexes[folder].has_images]
    matching = _only(filled, "a folder of images")
    # A folder without covers is returned too: it is an error only for recipes that use images.
    return indexes[matching or folders[0]] if folders else None


def _subfolders(folder: Path) -> list[Path]:
    """Return the visible subfolders that may hold tables or images, by name."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if os.path.isdir(entry.path)]
    tables = REQUIRED_FILES + OPTIONAL_FILES
    return [
        folder / name
        for name in sorted(names)
        if not name.startswith(".") and name not in (*NEVER_SEARCHED, *tables)
    ]


def _describe(root: Path, files: dict[str, Path | None], images: ImageIndex | None) -> str:
    found: dict[str, str] = {}
    for name, path in files.items():
        if path is not None and path.name in (INTERACTIONS, CANDIDATES):
            name = path.name
        found[name] = "none" if path is None else _describe_table(root, path)
    shown = "none" if images is None else f"{images.folder.relative_to(root)}/{images.describe()}"
    lines = [f"  {name:<21} {facts}" for name, facts in {**found, "images": shown}.items()]
    return "\n".join([f"data set in {root}", *lines])


def _describe_table(root: Path, path: Path) -> str:
    parts = _files(path)
    if not parts:
        return f"{path.relative_to(root)}/day=* ({DayLogs.at(path, root).describe()})"
    facts = [f"{sum(part.stat().st_size for part in parts) / 1e6:,.1f} MB"]
    if path.is_dir():
        facts.append(f"{len(parts):,} part files")
    if path.suffix == ".parquet" and path.with_suffix(".csv").exists():
        facts.append(f"{path.with_suffix('.csv').name} beside it is not used")
    return f"{path.relative_to(root)} ({'; '.join(facts)})"
