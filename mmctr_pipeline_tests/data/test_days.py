"""A day counts as complete by its marker or by a later day; an unfinished day is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmctr_pipeline.data.build import build_dataset
from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.days import DayLogs
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline_tests.data.day_data import FIRST, FOURTH, SECOND, THIRD, write_days


def _latest(root: Path) -> str:
    return str(DayLogs.at(root / "interactions", root).latest_complete().date)


def _build(root: Path, day: str | None = None) -> str:
    config = DataConfig(day=day, min_valid_rows=1)
    return build_dataset(find_data(root), config).day


def test_the_latest_marked_day_is_the_latest_complete_day(tmp_path: Path) -> None:
    write_days(tmp_path)
    assert _latest(tmp_path) == FOURTH
    (tmp_path / "interactions" / f"day={FOURTH}" / "_SUCCESS").unlink()
    assert _latest(tmp_path) == THIRD
    assert _build(tmp_path) == THIRD


def test_without_markers_a_day_is_complete_once_a_later_day_has_a_part(tmp_path: Path) -> None:
    write_days(tmp_path, marked=False)
    assert _latest(tmp_path) == THIRD
    # Some writers create the folders of a whole month in advance.
    later = tmp_path / "interactions" / "day=2026-01-31"
    later.mkdir()
    assert _latest(tmp_path) == THIRD
    (later / "part-0.parquet").write_bytes(b"half of a part")
    assert _latest(tmp_path) == FOURTH
    assert _build(tmp_path, FOURTH) == FOURTH


def test_days_before_the_first_marker_count_as_complete(tmp_path: Path) -> None:
    write_days(tmp_path, FIRST, SECOND, marked=False)
    write_days(tmp_path, THIRD)
    assert _build(tmp_path) == THIRD
    assert _build(tmp_path, SECOND) == SECOND


def test_no_complete_day_is_an_error_with_the_rule(tmp_path: Path) -> None:
    write_days(tmp_path, FIRST, marked=False)
    with pytest.raises(DataNotFoundError, match="no complete day: it has the day 2026-01-01") as e:
        _build(tmp_path)
    assert "write an empty file _SUCCESS" in str(e.value)


def test_the_last_day_without_a_marker_is_refused_if_named(tmp_path: Path) -> None:
    write_days(tmp_path, FIRST, SECOND, marked=False)
    with pytest.raises(DataError, match="no later day has part files yet") as error:
        _build(tmp_path, SECOND)
    assert error.value.file.name == f"day={SECOND}"
    assert "name an earlier day" in error.value.fix


def test_a_day_without_the_marker_that_earlier_days_have_is_refused(tmp_path: Path) -> None:
    write_days(tmp_path)
    (tmp_path / "interactions" / f"day={THIRD}" / "_SUCCESS").unlink()
    for day in (THIRD, FOURTH):  # as the last day, and as a train day
        with pytest.raises(DataError, match="no file _SUCCESS, as earlier days have") as error:
            _build(tmp_path, day)
        assert error.value.file.name == f"day={THIRD}"
    assert _build(tmp_path, SECOND) == SECOND


def _temporary_folder(day: Path) -> Path:
    (day / "_temporary").mkdir()
    return day / "_temporary"


def _file(name: str) -> Callable[[Path], Path]:
    def write(day: Path) -> Path:
        (day / name).write_bytes(b"PAR1")
        return day / name

    return write


UNFINISHED = {
    "Spark": _temporary_folder,
    "Flink": _file(".part-1-0.inprogress.8ef2"),
    "HDFS": _file("part-1.parquet._COPYING_"),
    "a temporary name": _file("part-1.parquet.tmp"),
    "a file of another kind": _file("part-1.csv"),
    "a half-written part": _file("part-1.parquet"),
}


@pytest.mark.parametrize("writer", UNFINISHED)
@pytest.mark.parametrize("day", [SECOND, FOURTH])
def test_an_unfinished_file_in_the_window_is_named(writer: str, day: str, tmp_path: Path) -> None:
    write_days(tmp_path)
    file = UNFINISHED[writer](tmp_path / "interactions" / f"day={day}")
    with pytest.raises(DataError) as error:
        _build(tmp_path)
    assert error.value.file == file
    assert error.value.fix


def test_checksums_and_other_hidden_files_are_ignored(tmp_path: Path) -> None:
    write_days(tmp_path)
    for name in (".part-0.parquet.crc", "_committed_77", "_metadata", ".DS_Store"):
        (tmp_path / "interactions" / f"day={THIRD}" / name).write_bytes(b"x")
    (tmp_path / "interactions" / "_SUCCESS").touch()
    assert _build(tmp_path) == FOURTH


def test_a_day_without_part_files_is_refused(tmp_path: Path) -> None:
    write_days(tmp_path)
    (tmp_path / "interactions" / f"day={THIRD}" / "part-0.parquet").unlink()
    with pytest.raises(DataError, match="has no part file") as error:
        _build(tmp_path)
    assert error.value.file.name == f"day={THIRD}"
    assert "remove its folder" in error.value.fix


@pytest.mark.parametrize("name", ["day=2026-1-3", "day=2026-02-30", "day=today", "part.parquet"])
def test_an_entry_that_is_not_a_day_is_refused(name: str, tmp_path: Path) -> None:
    write_days(tmp_path)
    (tmp_path / "interactions" / name).mkdir()
    with pytest.raises(DataError, match="only folders named day=YYYY-MM-DD") as error:
        _build(tmp_path)
    assert error.value.file.name == name


@pytest.mark.parametrize("what", ["day", "part"])
def test_links_out_of_the_data_folder_are_refused(what: str, tmp_path: Path) -> None:
    root = write_days(tmp_path / "data")
    path = root / "interactions" / f"day={THIRD}"
    path = path if what == "day" else path / "part-0.parquet"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="outside the data folder"):
        _build(root)
