"""`mmctr tensorboard` writes the recorded curves as TensorBoard reads them."""

from pathlib import Path

import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.files.records import write_record

EPOCHS = [
    {"epoch": 0.5, "train_loss": 0.6, "metrics": {"valid_auc": 0.7}, "gradient_norm": None},
    {"epoch": 1.0, "train_loss": 0.5, "metrics": {"valid_auc": 0.8}, "gradient_norm": 0.1},
]


def test_curves_are_written_once_per_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    storage, folder = tmp_path / "storage", tmp_path / "curves"
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(storage))
    for version in ("20260101T000000Z-a", "20260102T000000Z-b"):
        record = {"history": {"epochs": EPOCHS}}
        write_record(storage / "models" / version / "metrics.json", record)
        (storage / "models" / version / "model.pt").touch()
    for _ in range(2):
        assert main(["tensorboard", str(folder)]) == 0
    assert f"2 models; look at them with: tensorboard --logdir {folder}" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == [
        "20260101T000000Z-a",
        "20260102T000000Z-b",
    ]
    for version in folder.iterdir():
        (file,) = version.iterdir()
        events = EventAccumulator(str(file)).Reload()
        assert events.Tags()["scalars"] == ["valid auc", "train loss", "gradient norm"]
        found = [(each.step, each.value) for each in events.Scalars("valid auc")]
        assert found == [(500, pytest.approx(0.7)), (1000, pytest.approx(0.8))]
        assert [each.step for each in events.Scalars("gradient norm")] == [1000]
