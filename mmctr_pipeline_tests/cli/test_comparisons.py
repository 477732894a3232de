"""`mmctr ablation` and `mmctr fusions`, whose rows train in this process to save time."""

import json
from pathlib import Path

import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.comparison.entries import FUSIONS
from mmctr_pipeline.comparison.row import run_row


@pytest.fixture(autouse=True)
def train_rows_in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    monkeypatch.setattr(
        "mmctr_pipeline.comparison.runner._run_process", lambda folder, label: run_row(folder)
    )


@pytest.mark.slow
def test_ablation_compares_the_four_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tmp_path / "short.yaml"
    # This model reads title and cover vectors in addition to the fused ones.
    preset.write_text(
        "extends: sample\nmodel: {name: similarity_attention}\n"
        "training: {max_epochs: 1, batch_size: 256}\n"
    )
    monkeypatch.setenv("MMCTR_PRESET", str(preset))
    assert main(["ablation", "--scale", "0.1"]) == 0
    line = json.loads((tmp_path / "leaderboard" / "ablation.json").read_text())
    rows = line["rows"]
    assert [row["row"] for row in rows] == ["both", "text only", "images only", "neither"]
    assert len({row["auc"] for row in rows}) == 4
    assert len({key for row in rows for key in row["inputs"]}) == 4
    assert set(line["pairs"]) == {"text only - neither", "images only - neither"}
    differences = [row["behind_first"] for row in rows[1:]] + [*line["pairs"].values()]
    assert all(0 <= difference["p_value"] <= 1 for difference in differences)
    assert (tmp_path / "leaderboard" / "ablation.md").is_file()


@pytest.mark.slow
def test_fusions_trains_and_compares_every_fusion_with_every_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tmp_path / "short.yaml"
    preset.write_text(
        "extends: improved_mmctr_given\ntraining: {max_epochs: 1, batch_size: 256}\n"
        "fusion: {dim: 8, attention: {max_epochs: 1, rows_per_epoch: 500}}\n"
    )
    monkeypatch.setenv("MMCTR_PRESET", str(preset))
    sizes = ["--train-rows", "1000", "--valid-rows", "600"]
    assert main(["fusions", *sizes, "--seeds", "2"]) == 0
    saved = json.loads((tmp_path / "leaderboard" / "fusions.json").read_text())
    rows = {row["row"]: row for row in saved["rows"]}
    assert list(rows) == list(FUSIONS)
    assert all(row["seeds"] == [1, 2] for row in rows.values())
    values = [auc for row in rows.values() for auc in row["auc_by_seed"]]
    assert len(set(values)) == 2 * len(FUSIONS)
    first, pca = rows[next(iter(FUSIONS))]["auc_by_seed"], rows["pca"]["auc_by_seed"]
    mean = sum(a - b for a, b in zip(first, pca, strict=True)) / 2
    assert rows["pca"]["behind_first"]["difference"] == pytest.approx(mean)
    assert rows["pca"]["behind_first"]["verdict"] == "too few rows"
    assert len(set(rows["random"]["inputs"])) == 2
    assert len(set(rows["pca"]["inputs"])) == 1


@pytest.mark.parametrize("command", ["fusions", "leaderboard"])
def test_options_for_the_sample_dataset_are_refused_if_there_is_a_data_folder(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MMCTR_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MMCTR_PRESET", "sample")
    assert main([command, "--train-rows", "1000", "--seed", "3"]) == 2
    assert "--train-rows, --seed: for the sample dataset only" in capsys.readouterr().err
