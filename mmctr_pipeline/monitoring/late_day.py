"""Find out whether the newest day of logs by day is late: half written, or missing altogether."""

import contextlib
import dataclasses
import datetime
import os
from pathlib import Path

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.days import Day, DayLogs
from mmctr_pipeline.data.discovery import find_interactions
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.monitoring.night import Night


@dataclasses.dataclass(frozen=True)
class LateDay:
    """A day that a night should be of, but cannot be.

    `is_half_written` is False if the day has no folder. `reason` is one line.
    """

    day: str
    reason: str
    is_half_written: bool


def find_late_day(
    root: Path, storage: Path, data: DataConfig, today: datetime.date
) -> LateDay | None:
    """Return the day that keeps a night from having new logs; None if it has new ones.

    A day is late if the latest complete day is already the accepted one, and either a later day is
    half written, or there is none and the accepted day is older than yesterday. None is returned
    also for data without logs by day, for settings that name a day, for a first night, and for
    unreadable data or records, which the run reports.

    Parameters
    ----------
    root
        The data folder.
    storage
        The storage folder, with the record of the accepted night.
    data
        The settings.
    today
        Date of the night, in the time zone of its schedule.
    """
    with contextlib.suppress(DataError, DataNotFoundError, DamagedFileError, OSError):
        interactions = find_interactions(root) if data.day is None else None
        accepted = Night.read(storage, "accepted")
        if interactions is None or accepted is None:
            return None
        logs = DayLogs.at(interactions, root)
        latest = logs.latest_complete().date
        profile = accepted.profile
        if profile.folder != os.path.abspath(root) or profile.day < str(latest):
            return None
        told = f"the latest complete day is {latest}, whose submission is already written"
        if later := [day for day in logs.days if day.date > latest]:
            reason = f"{_fault(logs, later[-1])}; {told}"
            return LateDay(str(later[-1].date), reason, is_half_written=True)
        yesterday = today - datetime.timedelta(days=1)
        if latest < yesterday:
            reason = f"{interactions} has no day={yesterday}; {told}"
            return LateDay(str(yesterday), reason, is_half_written=False)
    return None


def _fault(logs: DayLogs, day: Day) -> str:
    """Return why a day is not complete."""
    try:
        logs.require_complete(day)
    except DataError as error:
        return f"{error.file}: {error.problem}"
    raise AssertionError(f"{day.folder} is complete")
