"""`mmctr accept` accepts the latest night's data, and says why they were blocked."""

from pathlib import Path

import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.monitoring.config import MonitoringConfig
from mmctr_pipeline.monitoring.night import Night, check_data
from mmctr_pipeline_tests.monitoring.drawn_nights import Population, write_files


def test_it_accepts_a_blocked_night_once_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "storage"
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(storage))
    assert main(["accept"]) == 1
    error = capsys.readouterr().err
    assert f"no data have been checked in {storage}" in error
    (tmp_path / "data").mkdir()
    layout = write_files(tmp_path / "data")
    Night(Population().night(1, layout)).write(storage, "accepted")
    blocked = Population(clicks=0.1).night(2, layout)
    assert check_data(blocked, storage, MonitoringConfig()).blocked
    assert main(["accept"]) == 0
    out = capsys.readouterr().out
    accepted = "accepted the data with fingerprint night 2, which were"
    assert out.startswith(f"{accepted} blocked: train.label_rate: 0.")
    assert Night.read(storage, "accepted") == Night(blocked) == Night.read(storage, "latest")
    assert main(["accept"]) == 0
    assert capsys.readouterr().out == f"{accepted} not blocked\n"
