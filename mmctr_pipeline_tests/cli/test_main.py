"""The commands that are not Dagster's."""

import datetime
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.encoders.store.vector_store import Shard, VectorStore, utc_now


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


def test_prune_drops_vectors_that_are_no_longer_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    assert main(["prune"]) == 0
    assert capsys.readouterr().out.startswith("no vectors are remembered")
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    for now in (lambda: long_ago, utc_now):
        VectorStore(tmp_path / "vectors", now).recall_or_encode(
            *("encoder:1", [bytes(31) + bytes([number]) for number in range(3)]),
            lambda positions: Shard(np.ones((len(positions), 250_000), np.float32)),
            shard_size=2,
            reader="",
            log=lambda line: None,
        )
        for command in (["prune", "--unused-days", "7", "--dry-run"], ["prune"]):
            assert main(command) == 0
            told = capsys.readouterr().out.splitlines()
            drop = "would drop" if "--dry-run" in command else "dropped"
            if now is utc_now:
                counts = f"kept 3 vectors (3.0 MB), {drop} 0 (0.0 MB)"
            else:
                counts = f"kept 0 vectors (0.0 MB), {drop} 3 (3.0 MB)"
            assert told == [f"encoder:1: {counts} and 0 files left behind", f"total: {counts}"]


def test_prune_drops_checkpoints_of_runs_that_nobody_took_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    root = tmp_path / "checkpoints"
    old, young, further, in_its_final_fit = (
        root / name for name in ("old", "young", "old-final-fit", "young-final-fit")
    )
    files = {
        old / "checkpoint.pt": 8,
        young / "checkpoint.pt": 0,
        further / "final-fit-3" / "checkpoint.pt": 8,
        in_its_final_fit / "checkpoint.pt": 8,
        in_its_final_fit / "final-fit-3" / "checkpoint.pt": 0,
    }
    for file, days in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"weights")
        last_written = time.time() - days * 86_400
        os.utime(file, (last_written, last_written))
    assert main(["prune", "--unused-days", "7", "--dry-run"]) == 0
    assert "old: would drop its checkpoint" in capsys.readouterr().out
    assert old.exists()
    assert main(["prune", "--unused-days", "7"]) == 0
    assert sorted(root.iterdir()) == [young, in_its_final_fit]


def test_prune_refuses_negative_days_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--unused-days", "-1"]) == 2
    assert capsys.readouterr().err == "error: unused_days is -1; it must be 0 or more\n"


# The second reads titles and covers beside the fused vectors.
@pytest.mark.parametrize("model", ["improved_mmctr", "similarity_attention"])
def test_ablation_compares_the_four_variants(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    preset = tmp_path / "short.yaml"
    preset.write_text(
        f"extends: sample\nmodel: {{name: {model}}}\ntraining: {{max_epochs: 1, batch_size: 256}}\n"
    )
    monkeypatch.setenv("MMCTR_PRESET", str(preset))
    assert main(["ablation", "--scale", "0.1"]) == 0
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(line["valid_auc"]) == {"both", "text only", "images only", "neither"}
    assert len(set(line["valid_auc"].values())) == 4
    assert set(line["p_values"]) == {
        *("both > text only", "both > images only", "text only > neither", "images only > neither"),
    }


def test_leaderboard_compares_presets_and_ends_with_a_failure_where_one_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    given = tmp_path / "given.yaml"
    given.write_text("extends: improved_mmctr_given\nfusion: {dim: 16}\n")
    monkeypatch.setenv("MMCTR_PRESET", str(given))
    short = "training: {max_epochs: 1, batch_size: 256, learning_rate: LR}\n"
    paths = [tmp_path / f"{name}.yaml" for name in ("short", "diverging")]
    for path, rate in zip(paths, ("1.0e-3", "1.0e+30"), strict=True):
        path.write_text("extends: sample\n" + short.replace("LR", rate))
    sizes = ["--scale", "0.1", "--train-rows", "3000", "--valid-rows", "1000"]
    assert main(["leaderboard", *map(str, paths), *sizes, "--name", "two"]) == 1
    out, err = capsys.readouterr()
    assert "diverging (seed 42): TrainingDivergedError" in err.replace(
        "mmctr_pipeline.training.step.", ""
    )
    line = json.loads(out.strip().splitlines()[-1])
    first, second = line["rows"]
    assert (first["preset"], second["preset"]) == ("short", "diverging")
    assert 0.5 < line["best_possible_auc"] < 1
    assert first["ended_by"] == ["max_epochs"]
    assert "TrainingDivergedError" in second["failure"]
    # Half of the users, not of the rows.
    assert 400 < line["n_reporting_rows"] < 600
    saved = json.loads((tmp_path / "leaderboard" / "two.json").read_text())
    assert saved["rows"] == line["rows"]
    table = (tmp_path / "leaderboard" / "two.md").read_text()
    assert f"{first['auc']:.4f} [{first['low']:.4f}, {first['high']:.4f}]" in table
    assert f"Best possible AUC on the same rows: {line['best_possible_auc']:.4f}." in table
    assert (tmp_path / "leaderboard" / "two.png").read_bytes().startswith(b"\x89PNG")
    scores = np.load(tmp_path / "leaderboard" / first["keys"][0] / "scores.npy")
    assert len(scores) == line["n_reporting_rows"]


def test_leaderboard_says_in_a_line_what_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCTR_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MMCTR_PRESET", "text_only")
    for option in ("--scale", "--train-rows", "--valid-rows", "--seed"):
        assert main(["leaderboard", "din", option, "0"]) == 2
        assert "--train-rows" in capsys.readouterr().err
    assert main(["leaderboard", "din"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: train.parquet, ")
    assert str(tmp_path) in told
    monkeypatch.delenv("MMCTR_PRESET")
    assert main(["leaderboard", "din"]) == 2
    assert "MMCTR_PRESET is not set" in capsys.readouterr().err
    assert main(["leaderboard", "no-such-preset"]) == 2
    assert "no-such-preset" in capsys.readouterr().err
