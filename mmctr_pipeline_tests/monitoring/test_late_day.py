"""A night whose day is half written or missing is found by comparing with the accepted night."""

import dataclasses
import datetime
from pathlib import Path

import pytest

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.monitoring.late_day import LateDay, find_late_day
from mmctr_pipeline.monitoring.night import Night
from mmctr_pipeline_tests.data.day_data import FOURTH, SECOND, THIRD, write_day, write_days
from mmctr_pipeline_tests.data.small_data import write_data
from mmctr_pipeline_tests.monitoring.drawn_nights import Population

FIFTH = "2026-01-05"
THE_FIFTH, THE_SIXTH = (datetime.date(2026, 1, number) for number in (5, 6))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_days(tmp_path / "data")


@pytest.fixture
def storage(root: Path, layout: DataLayout) -> Path:
    """Return a storage folder whose accepted night is the last day of the data."""
    storage = root.parent / "storage"
    accept(storage, layout, root, FOURTH)
    return storage


def accept(storage: Path, layout: DataLayout, root: Path, day: str) -> None:
    profile = Population().night(1, layout)
    Night(dataclasses.replace(profile, folder=str(root), day=day)).write(storage, "accepted")


def late(
    root: Path, storage: Path, today: datetime.date = THE_FIFTH, day: str | None = None
) -> LateDay | None:
    return find_late_day(root, storage, DataConfig(day=day), today)


def test_a_half_written_day_is_late_until_it_is_complete(root: Path, storage: Path) -> None:
    folder = write_day(root, FIFTH, marked=False)
    found = late(root, storage)
    assert found == LateDay(
        FIFTH,
        f"{folder}: the day is not complete: its folder has no file _SUCCESS, as earlier days "
        f"have; the latest complete day is {FOURTH}, whose submission is already written",
        is_half_written=True,
    )
    (folder / "_SUCCESS").touch()
    assert late(root, storage) is None


def test_a_part_file_that_is_still_being_written_is_named(root: Path, storage: Path) -> None:
    folder = write_day(root, FIFTH, marked=False)
    (folder / "part-1.parquet.tmp").touch()
    found = late(root, storage)
    assert found is not None
    assert found.reason.startswith(f"{folder / 'part-1.parquet.tmp'}: this is no complete part")


def test_a_missing_day_is_late_from_the_day_after_it(root: Path, storage: Path) -> None:
    assert late(root, storage, THE_FIFTH) is None
    found = late(root, storage, THE_SIXTH)
    assert found is not None
    assert (found.day, found.is_half_written) == (FIFTH, False)
    assert found.reason.startswith(f"{root / 'interactions'} has no day={FIFTH}; the latest")


def test_no_day_is_late_while_there_is_a_complete_one_to_run(
    root: Path, storage: Path, layout: DataLayout
) -> None:
    write_day(root, FIFTH, marked=False)
    for accepted in (SECOND, THIRD):
        accept(storage, layout, root, accepted)
        assert late(root, storage, THE_SIXTH) is None


def test_no_day_is_late_where_none_is_expected(
    root: Path, storage: Path, layout: DataLayout, tmp_path: Path
) -> None:
    write_day(root, FIFTH, marked=False)
    assert late(root, tmp_path / "new storage") is None, "there is no accepted night"
    assert late(root, storage, day=THIRD) is None, "the settings name a day"
    assert late(write_data(tmp_path / "splits"), storage) is None, "no logs by day"
    accept(storage, layout, tmp_path / "elsewhere", FOURTH)
    assert late(root, storage) is None, "the accepted night has other data"


def test_damaged_records_and_folders_are_left_to_the_run(root: Path, storage: Path) -> None:
    write_day(root, FIFTH, marked=False)
    assert late(root, storage)
    stranger = root / "interactions" / "stranger"
    stranger.mkdir()
    assert late(root, storage) is None
    stranger.rmdir()
    (storage / "monitoring" / "accepted.json").write_text("{")
    assert late(root, storage) is None
