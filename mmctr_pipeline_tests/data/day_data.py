"""Small logs by day that tests can add to and damage."""

from pathlib import Path
from typing import Any

from mmctr_pipeline_tests.data import small_data

Columns = dict[str, Any]
FIRST, SECOND, THIRD, FOURTH = (f"2026-01-{number:02}" for number in (1, 2, 3, 4))


def write_day(root: Path, day: str, *parts: Columns, marked: bool = True) -> Path:
    """Write the part files of one day, by default one with four rows; return its folder."""
    folder = root / "interactions" / f"day={day}"
    for number, columns in enumerate(parts or [small_data.train()]):
        small_data.write(folder / f"part-{number}.parquet", columns)
    if marked:
        (folder / "_SUCCESS").touch()
    return folder


def write_days(root: Path, *days: str, marked: bool = True) -> Path:
    """Write a data set by day, with the candidates of each day, into `root`."""
    small_data.write(root / "item_feature.parquet", small_data.item_feature())
    for day in days or (FIRST, SECOND, THIRD, FOURTH):
        write_day(root, day, marked=marked)
        write_candidates(root, day)
    return root


def write_candidates(root: Path, day: str, **changed: Any) -> Path:
    columns = {**small_data.test(), **changed}
    return small_data.write(root / "candidates" / f"day={day}" / "part-0.parquet", columns)
