"""Settings of the data: the days that a run reads from logs by day."""

import dataclasses
import datetime
import re

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings):
    """The days that a run reads from logs by day. Data with splits of their own have no days."""

    day: str | None = setting(
        None, "last day of the window, YYYY-MM-DD; by default the latest complete day"
    )
    days: int = setting(
        28, "length of the window in calendar days, train and valid together", ge=2, le=10_000
    )
    valid_days: int = setting(
        1,
        "days at the end of the window to validate on; days without a folder do not count",
        ge=1,
        le=10_000,
    )
    min_valid_rows: int = setting(
        10_000,
        "least valid rows; if there are fewer, the last train days become valid days",
        ge=1,
        le=10**12,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.valid_days >= self.days:
            raise self.invalid(
                "valid_days", f"is {self.valid_days}; it must be less than days, {self.days}"
            )
        if self.day is not None and parse_day(self.day) is None:
            raise self.invalid("day", f"is {self.day!r}; it must be a date such as 2026-11-03")

    @property
    def date(self) -> datetime.date | None:
        """The setting `day` as a date."""
        return None if self.day is None else parse_day(self.day)


DEFAULT_DATA = DataConfig()
"""The latest complete day, with the default window."""


def parse_day(text: str) -> datetime.date | None:
    """Return the date of a text in the form YYYY-MM-DD, or None for any other text."""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return None
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None
