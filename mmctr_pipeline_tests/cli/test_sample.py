"""`mmctr sample`."""

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


def test_it_refuses_an_impossible_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(tmp_path / "data"), "--scale", "1000"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "scale" in err
