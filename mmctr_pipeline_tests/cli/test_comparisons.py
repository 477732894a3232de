"""`mmctr ablation` and `mmctr fusions`, their rows trained in this process to save time."""

import json
from pathlib import Path

import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.comparison import row


@pytest.fixture(autouse=True)
def rows_in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    monkeypatch.setattr(
        "mmctr_pipeline.comparison.runner._run_process", lambda folder, label: row.run_row(folder)
    )


def test_ablation_compares_the_four_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "short.yaml"
    # This model reads titles and covers beside the fused vectors.
    preset.write_text(
        "extends: sample\nmodel: {name: similarity_attention}\n"
        "training: {max_epochs: 1, batch_size: 256}\n"
    )
    monkeypatch.setenv("MMCTR_PRESET", str(preset))
    assert main(["ablation", "--scale", "0.1"]) == 0
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [each["row"] for each in line["rows"]] == ["both", "text only", "images only", "neither"]
    assert len({each["auc"] for each in line["rows"]}) == 4
    assert len({key for each in line["rows"] for key in each["inputs"]}) == 4
    assert set(line["pairs"]) == {"text only - neither", "images only - neither"}
    compared = [each["behind_first"] for each in line["rows"][1:]] + [*line["pairs"].values()]
    assert all(0 <= each["p_value"] <= 1 for each in compared)
    assert (tmp_path / "leaderboard" / "ablation.md").is_file()


def test_fusions_compares_each_fusion_with_each_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "short.yaml"
    preset.write_text(
        "extends: improved_mmctr_given\ntraining: {max_epochs: 1, batch_size: 256}\n"
        "fusion: {dim: 8, attention: {max_epochs: 1, rows_per_epoch: 500}}\n"
    )
    monkeypatch.setenv("MMCTR_PRESET", str(preset))
    sizes = ["--train-rows", "1000", "--valid-rows", "600"]
    assert main(["fusions", *sizes, "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    rows = {each["row"]: each for each in json.loads(out.strip().splitlines()[-1])["rows"]}
    assert list(rows) == ["attention", "random", "random standardised", "pca"]
    assert all(each["seeds"] == [1, 2] for each in rows.values())
    values = [auc for each in rows.values() for auc in each["auc_by_seed"]]
    assert len(set(values)) == 8
    first, second = rows["attention"]["auc_by_seed"], rows["pca"]["auc_by_seed"]
    mean = sum(a - b for a, b in zip(first, second, strict=True)) / 2
    assert rows["pca"]["behind_first"]["difference"] == pytest.approx(mean)
    assert rows["pca"]["behind_first"]["verdict"] == "too few rows"
    assert len(set(rows["random"]["inputs"])) == 2
    assert len(set(rows["pca"]["inputs"])) == 1
