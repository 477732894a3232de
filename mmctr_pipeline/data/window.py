"""Choose the days of a dataset: the window of logs by day, and the tables of its splits."""

import dataclasses
import datetime
import logging
from pathlib import Path
from typing import Any

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.days import Day, DayLogs, has_days
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.parquet_file import ParquetFile
from mmctr_pipeline.data.tables import Table
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.settings import SettingsError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Window:
    """The days of train and valid, each ascending, and the number of valid rows.

    `missing` are the days without a folder.
    """

    train: tuple[datetime.date, ...]
    valid: tuple[datetime.date, ...]
    missing: tuple[datetime.date, ...]
    n_valid_rows: int

    def __str__(self) -> str:
        train, valid = _span(self.train), _span(self.valid)
        return f"window of {self.day}: train {train}, valid {valid} with {self.n_valid_rows:,} rows"

    @property
    def gaps(self) -> str:
        """A remark on the days without a folder; empty if there are none."""
        if not self.missing:
            return ""
        more = f" and {len(self.missing) - 5} more" if self.missing[5:] else ""
        return f"days of the window without a folder: {', '.join(map(str, self.missing[:5]))}{more}"

    @property
    def day(self) -> datetime.date:
        """The last day, which a run is named by."""
        return self.valid[-1]

    def to_mapping(self) -> dict[str, Any]:
        """Return plain strings and lists, for the provenance."""
        days = {"train_days": self.train, "valid_days": self.valid, "missing_days": self.missing}
        return {"day": str(self.day), **{name: list(map(str, days[name])) for name in days}}


@dataclasses.dataclass(frozen=True)
class SplitTables:
    """The tables of the splits; `window` is None for data with splits of their own."""

    train: Table
    valid: Table
    test: Table
    window: Window | None = None

    @property
    def by_name(self) -> dict[str, Table]:
        """The three tables by the name of their split."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


def resolve_day(root: Path, interactions: Path | None, config: DataConfig) -> DataConfig:
    """Return the settings with a complete day: the latest one if they name none.

    Data without logs by day have no day: the settings are returned as they are. Raises
    `SettingsError` if they name a day then, `DataNotFoundError` if the day does not exist or no day
    is complete, and `DataError` if the day is not complete.

    Parameters
    ----------
    root
        The data folder.
    interactions
        Its folder of logs by day, or None.
    config
        The settings.
    """
    if interactions is None:
        if config.day is not None:
            raise SettingsError(
                f"data.day is {config.day}, but {root} has no logs by day, that is, folders "
                "interactions/day=YYYY-MM-DD. Fix: leave the day out, or set MMCTR_DATA_DIR to a "
                "folder with logs by day"
            )
        return config
    logs = DayLogs.at(interactions, root)
    day = logs.latest_complete() if config.date is None else logs.day(config.date)
    logs.require_complete(day)
    if config.date is None and (later := [each.date for each in logs.days if each.date > day.date]):
        logger.warning(
            f"not complete yet, and left out: {', '.join(map(str, later))}; {day.date} is the "
            "latest complete day"
        )
    return dataclasses.replace(config, day=str(day.date))


def find_splits(layout: DataLayout, config: DataConfig) -> SplitTables:
    """Return the tables of the splits; for logs by day, those of the window that `config` names.

    Valid has the last `valid_days` days of the window that have a folder. Further days are moved
    from train to valid until valid has `min_valid_rows` rows. No file of a later day is opened.

    Raises `DataError` for a day in the window that is not complete, if no day is left for train,
    and for an unreadable part file of the valid days, and the errors of `resolve_day`.
    """
    config = resolve_day(layout.root, layout.interactions, config)
    if layout.interactions is None:
        return SplitTables(Table.at(layout.train), Table.at(layout.valid), Table.at(layout.test))
    logs = DayLogs.at(layout.interactions, layout.root)
    days = _days_of_window(logs, config)
    n_valid_days, n_rows = _count_valid_days(logs, days, config)
    train, valid = days[:-n_valid_days], days[-n_valid_days:]
    window = Window(_dates(train), _dates(valid), _missing(days), n_rows)
    return SplitTables(
        train=_table(logs, train, "the train days"),
        valid=_table(logs, valid, "the valid days"),
        test=find_test(layout, config),
        window=window,
    )


def find_test(layout: DataLayout, config: DataConfig) -> Table:
    """Return the table of the rows to score; for candidates by day, those of the window's day.

    Raises as `find_splits` does.
    """
    date = resolve_day(layout.root, layout.interactions, config).date
    if date is None or not layout.test.is_dir() or not has_days(layout.test):
        return Table.at(layout.test)
    candidates = DayLogs.at(layout.test, layout.root)
    day = candidates.day(date)
    candidates.require_finished(day)
    return _table(candidates, [day], str(date))


def _days_of_window(logs: DayLogs, config: DataConfig) -> list[Day]:
    """Return the days of the window that have a folder, after checking that they are complete."""
    last = config.date
    assert last is not None
    first = last - datetime.timedelta(days=config.days - 1)
    days = [day for day in logs.days if first <= day.date <= last]
    for day in days:
        logs.require_finished(day)
    return days


def _count_valid_days(logs: DayLogs, days: list[Day], config: DataConfig) -> tuple[int, int]:
    """Return the number of valid days and the number of their rows."""
    n_rows = 0
    for n_days, day in enumerate(reversed(days), start=1):
        n_rows += sum(map(_count_rows, day.parts))
        if n_days == len(days):
            break
        if n_days >= config.valid_days and n_rows >= config.min_valid_rows:
            return n_days, n_rows
    raise DataError(
        logs.folder,
        f"the window {_span(_dates(days))} has {n_rows:,} rows in all, too few to leave a train "
        f"day: data.valid_days is {config.valid_days}, and data.min_valid_rows "
        f"{config.min_valid_rows:,}",
        "raise data.days, lower data.valid_days or data.min_valid_rows, or wait for more days",
    )


def _count_rows(part: Path) -> int:
    file = ParquetFile(part)
    file.close()
    return file.n_rows


def _missing(days: list[Day]) -> tuple[datetime.date, ...]:
    """Return the days without a folder between the first and the last."""
    first, last = days[0].date, days[-1].date
    between = (first + datetime.timedelta(days=n) for n in range((last - first).days))
    present = set(_dates(days))
    return tuple(date for date in between if date not in present)


def _dates(days: list[Day]) -> tuple[datetime.date, ...]:
    return tuple(day.date for day in days)


def _table(logs: DayLogs, days: list[Day], which: str) -> Table:
    files = tuple(part for day in days for part in day.parts)
    return Table(logs.folder, files, f"{logs.folder.name} of {which}")


def log_window(window: Window, config: DataConfig) -> None:
    """Log the days of a window, and warn of those without a folder."""
    widened = f" (data.min_valid_rows asks for {config.min_valid_rows:,})"
    logger.info(f"{window}{widened if len(window.valid) > config.valid_days else ''}")
    if window.gaps:
        logger.warning(window.gaps)


def _span(days: tuple[datetime.date, ...]) -> str:
    if len(days) == 1:
        return f"{days[0]} (1 day)"
    return f"{days[0]} to {days[-1]} ({len(days)} days)"
