"""`mmctr sample` writes a sample dataset, or says what is wrong."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.data.discovery import find_data


def test_it_writes_a_sample_dataset_that_the_pipeline_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    assert main(["sample", str(folder), "--scale", "0.1", "--no-images", "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == f"MMCTR_DATA_DIR={folder}"
    assert "sample dataset: " in err
    assert find_data(folder).images is None


def test_it_refuses_a_folder_that_is_not_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    assert main(["sample", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_it_writes_logs_by_day_and_later_adds_the_next_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", str(tmp_path), "--scale", "0.05", "--no-images", "--first-day"]
    for days, last in (("1", "2026-10-29"), ("2", "2026-10-30")):
        assert main([*command, "2026-10-01", "--days", days]) == 0
        assert sorted((tmp_path / "interactions").iterdir())[-1].name == f"day={last}"
    assert "30 days from 2026-10-01, 29 of them are there" in capsys.readouterr().err
    assert find_data(tmp_path).interactions == tmp_path / "interactions"
    assert main([*command, "2026-10-02", "--days", "3"]) == 2
    assert "with other settings (first_day)" in capsys.readouterr().err
    assert main(command[:-1]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert len(list((tmp_path / "interactions").iterdir())) == 30


def test_settings_of_days_are_refused_without_days(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(tmp_path), "--drift", "0.5"]) == 2
    assert "add --days" in capsys.readouterr().err


def test_it_refuses_an_impossible_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(tmp_path / "data"), "--scale", "1000"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "scale" in err


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/mmctr"])
def test_it_refuses_a_place_that_it_cannot_write_to(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["sample", str(tmp_path / place), "--scale", "0.1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot write {tmp_path / place}: ")
    assert "Fix: " in line
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "mmctr_pipeline.cli.main",
            "sample",
            str(tmp_path),
            "--scale",
            "0.1",
        ],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: cannot write {tmp_path}: File too large. Fix: ")
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []
