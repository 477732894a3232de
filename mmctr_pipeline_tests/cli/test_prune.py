"""`mmctr prune` drops vectors and checkpoints that were not used for a number of days."""

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
            lambda positions, _: Shard(np.ones((len(positions), 250_000), np.float32)),
            shard_size=2,
            reader="",
        )
        kept, dropped = (3, 0) if now is utc_now else (0, 3)
        for options, verb in ((["--unused-days", "7", "--dry-run"], "would drop"), ([], "dropped")):
            assert main(["prune", *options]) == 0
            counts = f"kept {kept} vectors ({kept}.0 MB), {verb} {dropped} ({dropped}.0 MB)"
            lines = capsys.readouterr().out.splitlines()
            assert lines == [f"encoder:1: {counts} and 0 leftover files", f"total: {counts}"]


def test_it_drops_checkpoints_that_are_older_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    root = tmp_path / "checkpoints"
    old, young, old_final_fit, young_final_fit = (
        root / name for name in ("old", "young", "old-final-fit", "young-final-fit")
    )
    age_in_days = {
        old / "checkpoint.pt": 8,
        young / "checkpoint.pt": 0,
        old_final_fit / "final-fit-3" / "checkpoint.pt": 8,
        young_final_fit / "checkpoint.pt": 8,
        young_final_fit / "final-fit-3" / "checkpoint.pt": 0,
    }
    for file, days in age_in_days.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"weights")
        last_written = time.time() - days * 86_400
        os.utime(file, (last_written, last_written))
    assert main(["prune", "--unused-days", "7", "--dry-run"]) == 0
    assert "old: would drop its checkpoint" in capsys.readouterr().out
    assert old.exists()
    assert main(["prune", "--unused-days", "7"]) == 0
    assert sorted(root.iterdir()) == [young, young_final_fit]


def test_it_refuses_negative_days_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--unused-days", "-1"]) == 2
    assert capsys.readouterr().err == "error: unused_days is -1; it must be 0 or more\n"
