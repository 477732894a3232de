"""Versions are complete folders, a link names the latest, and killed writers do no harm."""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError
from mmctr_pipeline.registry.versions import write_version
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE, unpadded


def latest(storage: Path) -> Path:
    """Return the file that `latest_model.pt` points to."""
    return (storage / "latest_model.pt").resolve(strict=True)


def test_a_version_holds_model_metrics_and_card(tmp_path: Path) -> None:
    folder = write_version(tmp_path, MODEL_FILE)
    assert folder.parent == tmp_path / "models"
    assert sorted(path.name for path in folder.iterdir()) == ["card.md", "metrics.json", "model.pt"]
    loaded = ModelFile.load(folder / "model.pt")
    assert torch.equal(loaded.state_dict["weight"], MODEL_FILE.state_dict["weight"])
    assert loaded.description() == MODEL_FILE.description()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["metrics"] == MODEL_FILE.metrics
    assert metrics["vector_identity"] == "vectors-1"
    assert metrics["version"] == folder.name


def test_a_version_is_named_by_utc_time_and_content_hash(tmp_path: Path) -> None:
    folder = write_version(tmp_path, MODEL_FILE)
    sha256 = hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", folder.name)
    assert folder.name.endswith(sha256[:8])
    assert json.loads((folder / "metrics.json").read_text())["sha256"] == sha256


def test_the_card_shows_metrics_identities_and_settings(tmp_path: Path) -> None:
    card = unpadded((write_version(tmp_path, MODEL_FILE) / "card.md").read_text())
    for expected in (
        "improved_mmctr",
        "**0.8123**, 95 % interval 0.8000 to 0.8200",
        "preset sample",
        "fingerprint-1",
        "vectors-1",
        "text-1",
        "image-1",
        "transform-1",
        "| training.seed | 42 |",
        "| model.hidden_dims | [512, 256] |",
        "| torch | 2.9 |",
        "| **1** | 0.6000 | 0.8123 | | 0.002 | 1,234 |",
    ):
        assert expected in card, expected


def test_latest_model_is_a_relative_link_to_the_latest_version(tmp_path: Path) -> None:
    first = write_version(tmp_path, MODEL_FILE)
    assert latest(tmp_path) == first / "model.pt"
    second = write_version(tmp_path, dataclasses.replace(MODEL_FILE, preset="other"))
    assert first.is_dir()
    assert latest(tmp_path) == second / "model.pt"
    assert os.readlink(tmp_path / "latest_model.pt") == f"models/{second.name}/model.pt"
    assert ModelFile.load(tmp_path / "latest_model.pt").preset == "other"
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert latest(moved) == moved / "models" / second.name / "model.pt"


def test_writing_the_same_model_again_is_harmless(tmp_path: Path) -> None:
    folders = [write_version(tmp_path, MODEL_FILE) for _ in range(3)]
    assert latest(tmp_path) == folders[-1] / "model.pt"
    assert not list((tmp_path / "models").glob(".incoming-*"))


def test_a_failed_write_keeps_the_latest_version_and_leaves_nothing_behind(tmp_path: Path) -> None:
    first = write_version(tmp_path, MODEL_FILE)
    broken = dataclasses.replace(MODEL_FILE, metrics={"valid_auc": np.float32(0.9)})
    with pytest.raises(ModelFileError, match="float32"):
        write_version(tmp_path, broken)
    assert latest(tmp_path) == first / "model.pt"
    assert [path for path in (tmp_path / "models").iterdir() if path.is_dir()] == [first]


def die_while_writing(storage: Path) -> None:
    class ModelFileThatKillsItsWriter(ModelFile):
        def save(self, path: Path) -> None:
            path.write_bytes(b"half a model")
            os.kill(os.getpid(), signal.SIGKILL)

    write_version(storage, ModelFileThatKillsItsWriter(**vars(MODEL_FILE)))


def test_the_next_writer_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    first = write_version(tmp_path, MODEL_FILE)
    process = multiprocessing.get_context("fork").Process(
        target=die_while_writing, args=(tmp_path,)
    )
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert list((tmp_path / "models").glob(".incoming-*"))
    assert latest(tmp_path) == first / "model.pt"
    second = write_version(tmp_path, dataclasses.replace(MODEL_FILE, preset="after"))
    assert not list((tmp_path / "models").glob(".incoming-*"))
    assert latest(tmp_path) == second / "model.pt"
