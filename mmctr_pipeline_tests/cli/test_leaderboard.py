"""`mmctr leaderboard` compares presets, and refuses unusable options and data."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.cli.main import main

SIZES = ["--scale", "0.1", "--train-rows", "3000", "--valid-rows", "1000"]


@pytest.mark.slow
def test_it_compares_presets_and_ends_with_status_1_if_one_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    given = tmp_path / "given.yaml"
    given.write_text("extends: improved_mmctr_given\nfusion: {dim: 16}\n")
    monkeypatch.setenv("MMCTR_PRESET", str(given))
    paths = [tmp_path / f"{name}.yaml" for name in ("short", "featureless")]
    paths[0].write_text("extends: sample\ntraining: {max_epochs: 1, batch_size: 256}\n")
    off = "{item_id: false, item_tags: false, item_levels: false, fused_vectors: false}"
    paths[1].write_text(f"extends: din\nmodel: {{features: {off}}}\n")
    assert main(["leaderboard", *map(str, paths), *SIZES, "--name", "two"]) == 1
    out, err = capsys.readouterr()
    assert "ValueError: no item feature is configured" in err
    assert out.endswith(f"written to {tmp_path}/leaderboard/two.md, .json and .png\n")
    line = json.loads((tmp_path / "leaderboard" / "two.json").read_text())
    first, second = line["rows"]
    assert (first["row"], second["row"]) == ("short", "featureless")
    assert 0.5 < line["best_possible_auc"] < 1
    assert first["ended_by"] == ["max_epochs"]
    assert "no item feature is configured" in second["failure"]
    # Users are halved, not rows, so about half of the 1,000 valid rows are reported.
    assert 400 < line["n_reporting_rows"] < 600
    table = (tmp_path / "leaderboard" / "two.md").read_text()
    assert f"{first['auc']:.4f} [{first['low']:.4f}, {first['high']:.4f}]" in table
    assert f"featureless failed: {second['failure']}" in table
    assert f"Best possible AUC on the same rows: {line['best_possible_auc']:.4f}." in table
    assert [row["row"] for row in line["baselines"]] == [
        *("popularity", "click rates", "title cosine"),
    ]
    assert f"{line['baselines'][2]['auc']:.4f} [" in table
    assert (tmp_path / "leaderboard" / "two.png").read_bytes().startswith(b"\x89PNG")
    scores = np.load(tmp_path / "leaderboard" / first["keys"][0] / "scores.npy")
    assert len(scores) == line["n_reporting_rows"]


def test_rows_use_the_vectors_of_the_deployment_unless_vary_all_gives_each_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    # Only the inputs of the rows matter here, so none is trained.
    monkeypatch.setattr(
        "mmctr_pipeline.comparison.runner._run_process", lambda folder, label: "not run"
    )
    paths = [tmp_path / f"{name}.yaml" for name in ("wide", "narrow")]
    for path, dim in zip(paths, (16, 8), strict=True):
        path.write_text(f"extends: improved_mmctr_given\nfusion: {{dim: {dim}}}\n")

    def inputs(*options: str) -> list[list[str]]:
        assert main(["leaderboard", *map(str, paths), *SIZES, *options]) == 1
        rows = json.loads((tmp_path / "leaderboard" / "leaderboard.json").read_text())["rows"]
        return [row["inputs"] for row in rows]

    monkeypatch.setenv("MMCTR_PRESET", str(paths[0]))
    wide, shared = inputs()
    assert wide == shared
    # With `--vary all`, rows use their own encoders and fusion, and no deployment preset is needed.
    monkeypatch.delenv("MMCTR_PRESET")
    own, narrow = inputs("--vary", "all")
    assert own == wide
    assert narrow != wide


def test_unusable_options_and_data_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCTR_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MMCTR_PRESET", "text_only")
    for option in ("--scale", "--train-rows", "--valid-rows", "--seed"):
        assert main(["leaderboard", "din", option, "0"]) == 2
        assert f"error: {option}: for the sample dataset only" in capsys.readouterr().err
    assert main(["leaderboard", "din"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: train.parquet, ")
    assert str(tmp_path) in err
    assert main(["leaderboard", "no-such-preset"]) == 2
    assert "no-such-preset" in capsys.readouterr().err
    monkeypatch.delenv("MMCTR_PRESET")
    assert main(["leaderboard", "din"]) == 2
    assert "MMCTR_PRESET is not set" in capsys.readouterr().err
