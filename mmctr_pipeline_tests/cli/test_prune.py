"""`mmctr prune`."""

import datetime
import os
import time
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.encoders.store.vector_store import Shard, VectorStore, utc_now


def test_it_drops_vectors_that_are_no_longer_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    assert main(["prune"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'vectors'} has no stored vectors\n"
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    for now in (lambda: long_ago, utc_now):
        VectorStore(tmp_path / "vectors", now).get_or_encode(
            *("encoder:1", [bytes(31) + bytes([number]) for number in range(3)]),
            lambda positions: Shard(np.ones((len(positions), 250_000), np.float32)),
            shard_size=2,
            reader="",
        )
        for command in (["prune", "--unused-days", "7", "--dry-run"], ["prune"]):
            assert main(command) == 0
            lines = capsys.readouterr().out.splitlines()
            drop = "would drop" if "--dry-run" in command else "dropped"
            if now is utc_now:
                counts = f"kept 3 vectors (3.0 MB), {drop} 0 (0.0 MB)"
            else:
                counts = f"kept 0 vectors (0.0 MB), {drop} 3 (3.0 MB)"
            assert lines == [f"encoder:1: {counts} and 0 leftover files", f"total: {counts}"]


def test_it_drops_checkpoints_of_runs_that_were_never_resumed(
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


def test_it_refuses_negative_days_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--unused-days", "-1"]) == 2
    assert capsys.readouterr().err == "error: unused_days is -1; it must be 0 or more\n"
