"""Logs by day: the subfolders `day=YYYY-MM-DD` of a folder, and which of them are complete.

A day is complete if its folder has a file `_SUCCESS`. Where no day up to this one has such a file,
a day is complete as soon as a later day has a part file. Later days have no other effect.
"""

import dataclasses
import datetime
import functools
import os
import re
from pathlib import Path
from typing import Self

from mmctr_pipeline.data.config import parse_day
from mmctr_pipeline.data.links import refuse_link_outside
from mmctr_pipeline.data.validation import DataError, DataNotFoundError

MARKER = "_SUCCESS"
"""Name of the file that a writer adds to a folder when all of its part files are complete."""

_PREFIX = "day="
# Hidden files and folders that writers such as Spark, Flink and HDFS remove or rename at the end.
_UNFINISHED = re.compile(r"tmp|temporary|in-?progress|staging|copying|partial", re.IGNORECASE)


def day_of_folder(folder: Path) -> str:
    """Return the day of a folder `day=YYYY-MM-DD`."""
    return folder.name.removeprefix(_PREFIX)


@dataclasses.dataclass(frozen=True)
class Day:
    """The folder of one day."""

    date: datetime.date
    folder: Path

    @functools.cached_property
    def _names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    @property
    def is_marked(self) -> bool:
        """True if the folder has the file `_SUCCESS`."""
        return MARKER in self._names

    @functools.cached_property
    def parts(self) -> tuple[Path, ...]:
        """The part files, by name."""
        return tuple(self.folder / name for name in self._names if _is_part(name))

    @property
    def unfinished(self) -> Path | None:
        """The first entry that shows that the folder is not completely written, or None."""
        names = (name for name in self._names if _is_unfinished(self.folder / name))
        return next((self.folder / name for name in names), None)


@dataclasses.dataclass(frozen=True)
class DayLogs:
    """The days of `folder`, ascending; `root` is the data folder, which no link may lead out of.

    The files of a day are listed when they are first needed.
    """

    folder: Path
    root: Path
    days: tuple[Day, ...]

    @classmethod
    def at(cls, folder: Path, root: Path) -> Self:
        """List the days; raises `DataError` for any other visible file or folder."""
        days = []
        for name in sorted(os.listdir(folder)):
            date = parse_day(name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else None
            if date is not None:
                days.append(Day(date, folder / name))
            elif name[0] not in "._":
                raise DataError(
                    folder / name,
                    "a folder of logs by day must hold only folders named day=YYYY-MM-DD",
                    "rename it, or move it away",
                )
        return cls(folder, root, tuple(days))

    def latest_complete(self) -> Day:
        """Return the latest complete day; raises `DataNotFoundError` if there is none."""
        for day in reversed(self.days):
            if self._is_complete(day):
                return day
        raise DataNotFoundError(
            f"{self.folder} has no complete day: it has {self.describe()}, and a day is complete "
            f"if its folder has a file {MARKER}, or if a later day has part files. Fix: write an "
            f"empty file {MARKER} into the folder of each complete day"
        )

    def day(self, date: datetime.date) -> Day:
        """Return the day of a date; raises `DataNotFoundError` if there is none."""
        for day in self.days:
            if day.date == date:
                return day
        raise DataNotFoundError(
            f"{self.folder} has no day={date}; it has {self.describe()}. Fix: choose one of its "
            "days, or add the missing one"
        )

    def require_complete(self, day: Day) -> None:
        """Check that all files of a day are there; raises `DataError`."""
        self.require_finished(day)
        if not self._is_complete(day):
            raise DataError(
                day.folder,
                f"the day may not be complete: its folder has no file {MARKER}, and no later day "
                "has part files yet",
                f"wait for the next day, write an empty file {MARKER} into the folder if the day "
                "is complete, or name an earlier day",
            )

    def require_finished(self, day: Day) -> None:
        """Check that a day has part files, and nothing shows that more follow."""
        refuse_link_outside(day.folder, self.root)
        if day.unfinished is not None:
            raise DataError(
                day.unfinished,
                "this is no complete part file (*.parquet), so the day is still being written or "
                "its writer has failed",
                "let the writer finish the day, or remove this file if it is left from a failure",
            )
        if not day.parts:
            raise DataError(
                day.folder,
                "the folder of the day has no part file (*.parquet)",
                "write the day again; if it had no rows, remove its folder",
            )
        if not day.is_marked and self._earlier_is_marked(day):
            raise DataError(
                day.folder,
                f"the day is not complete: its folder has no file {MARKER}, as earlier days have",
                f"let the writer finish the day; if it has, write an empty file {MARKER} there",
            )
        for part in day.parts:
            refuse_link_outside(part, self.root)

    def describe(self) -> str:
        """Return the number of days, the first and the last."""
        if not self.days:
            return "no days"
        first, last = self.days[0].date, self.days[-1].date
        return (
            f"the day {first}" if first == last else f"{len(self.days):,} days, {first} to {last}"
        )

    def _is_complete(self, day: Day) -> bool:
        if day.is_marked or self._earlier_is_marked(day):
            return day.is_marked
        return any(later.parts for later in reversed(self.days) if later.date > day.date)

    def _earlier_is_marked(self, day: Day) -> bool:
        return any(other.is_marked for other in reversed(self.days) if other.date < day.date)


def has_days(folder: Path) -> bool:
    """Return whether a folder holds logs by day."""
    return any(name.startswith(_PREFIX) for name in os.listdir(folder))


def _is_part(name: str) -> bool:
    return name.endswith(".parquet") and name[0] not in "._"


def _is_unfinished(path: Path) -> bool:
    """Return whether an entry is a file that its writer has not finished, or no part at all."""
    if path.name[0] in "._":
        return _UNFINISHED.search(path.name) is not None
    return not _is_part(path.name) or path.is_dir()
