"""The commands that are not Dagster's."""

import json
from pathlib import Path

import pytest

from mmctr_pipeline.cli import main
from mmctr_pipeline.data.discovery import find_data


def test_sample_writes_a_world_that_the_pipeline_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "world"
    assert main(["sample", str(folder), "--scale", "0.1", "--no-images", "--seed", "3"]) == 0
    assert capsys.readouterr().out.strip() == f"MMCTR_DATA_DIR={folder}"
    assert find_data(folder).images is None


def test_sample_refuses_a_folder_that_holds_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    assert main(["sample", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_sample_refuses_an_impossible_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(tmp_path / "world"), "--scale", "1000"]) == 2
    assert "scale" in capsys.readouterr().err


def test_ablation_compares_the_four_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    preset = tmp_path / "short.yaml"
    preset.write_text("extends: sample\ntraining: {max_epochs: 1, batch_size: 256}\n")
    monkeypatch.setenv("MMCTR_PRESET", str(preset))
    assert main(["ablation", "--scale", "0.1"]) == 0
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(line["valid_auc"]) == {"both", "text only", "images only", "neither"}
    assert len(set(line["valid_auc"].values())) == 4
    assert set(line["p_values"]) == {
        *("both > text only", "both > images only", "text only > neither", "images only > neither"),
    }
