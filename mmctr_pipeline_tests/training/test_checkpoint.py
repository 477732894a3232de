"""Checkpoints are written when due, replaced whole or not at all, and removed with their folder."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmctr_pipeline.training.checkpoint import Checkpoints, run_key
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.loop import TrainBatches
from mmctr_pipeline_tests.training.toy_runs import fit_toy


def loaded(checkpoints: Checkpoints) -> Any:
    return checkpoints.load(torch.device("cpu"))


def test_no_checkpoint_is_found_before_one_is_written(tmp_path: Path) -> None:
    assert loaded(Checkpoints(tmp_path / "run")) is None


def test_a_saved_state_is_restored_unchanged_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path / "run", every_seconds=0)
    weights = torch.arange(3.0)
    rest = {"epoch": 2.5, "nested": [{"best": -1, "x": None}]}
    checkpoints.save(lambda: {"weights": weights, **rest})
    caplog.set_level(logging.INFO)
    found = loaded(checkpoints)
    assert torch.equal(found.pop("weights"), weights)
    assert found == rest
    assert caplog.messages == [f"resuming from {tmp_path / 'run' / 'checkpoint.pt'}"]


def test_checkpoints_are_at_least_the_interval_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    checkpoints = Checkpoints(tmp_path, every_seconds=30)
    n_saved = 0

    def state() -> dict[str, int]:
        nonlocal n_saved
        n_saved += 1
        return {"n": n_saved}

    checkpoints.save(state)
    assert not checkpoints.path.exists()
    now = 31.0
    checkpoints.save(state)
    checkpoints.save(state)
    assert loaded(checkpoints) == {"n": 1}
    now = 62.0
    checkpoints.save(state)
    assert loaded(checkpoints) == {"n": 2}
    assert n_saved == 2


def test_removing_deletes_the_folder_and_may_be_repeated(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", every_seconds=0)
    checkpoints.save(dict)
    checkpoints.remove()
    checkpoints.remove()
    assert not (tmp_path / "run").exists()
    assert loaded(checkpoints) is None


def test_a_failed_save_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every_seconds=0)
    checkpoints.save(lambda: {"n": 1})

    def fail() -> dict[str, Any]:
        raise RuntimeError("no state")

    with pytest.raises(RuntimeError, match="no state"):
        checkpoints.save(fail)
    assert loaded(checkpoints) == {"n": 1}
    assert list(tmp_path.glob("*.pt")) == [checkpoints.path]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_named_and_training_starts_from_the_beginning(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, every_seconds=0)
    checkpoints.path.write_bytes(content)
    assert loaded(checkpoints) is None
    (line,) = caplog.messages
    assert line.startswith(str(checkpoints.path))
    assert line.endswith("training from the beginning")
    checkpoints.save(lambda: {"n": 1})
    assert loaded(checkpoints) == {"n": 1}


def test_runs_with_different_configs_data_or_vectors_have_their_own_folders(tmp_path: Path) -> None:
    known: dict[str, Any] = {
        "config": {"seed": 1, "patience": 2},
        "data": "abc",
        "vectors": ["x", "y"],
    }
    key = run_key(**known)
    assert run_key(vectors=["x", "y"], data="abc", config={"patience": 2, "seed": 1}) == key
    changes = ({"data": "abd"}, {"config": {"seed": 2, "patience": 2}}, {"vectors": ["y", "x"]})
    keys = {key, *(run_key(**{**known, **change}) for change in changes)}
    assert len(keys) == 4
    folders = {Checkpoints.for_run(tmp_path, one_key).folder for one_key in keys}
    assert {folder.parent for folder in folders} == {tmp_path / "checkpoints"}
    assert len(folders) == 4


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import torch
from mmctr_pipeline.training.checkpoint import Checkpoints

class KillsItsWriter:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints = Checkpoints(Path(sys.argv[1]), every_seconds=0)
checkpoints.save(lambda: {"n": 1})
checkpoints.save(lambda: {"n": 2, "weights": torch.zeros(100_000), "last": KillsItsWriter()})
"""


def test_a_kill_while_writing_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL
    checkpoints = Checkpoints(tmp_path, every_seconds=0)
    assert loaded(checkpoints) == {"n": 1}
    assert len(list(tmp_path.glob("*.pt"))) == 2
    checkpoints.save(lambda: {"n": 3})
    assert loaded(checkpoints) == {"n": 3}
    # The killed process's file is gone.
    assert list(tmp_path.glob("*.pt")) == [checkpoints.path]


def test_a_resumed_run_keeps_splitting_batches_and_ends_in_evaluation_mode(tmp_path: Path) -> None:
    sizes: list[int] = []

    def run(max_rows: int, n_validations: int) -> nn.Module:
        """Train with memory for `max_rows` rows; validation `n_validations + 1` is interrupted."""
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        validations = iter(range(n_validations))

        def loss(module: nn.Module, rows_B1: torch.Tensor) -> torch.Tensor:
            if len(rows_B1) > max_rows:
                raise torch.OutOfMemoryError
            sizes.append(len(rows_B1))
            return module(rows_B1).square().mean()

        def evaluate(module: nn.Module) -> dict[str, float]:
            if next(validations, None) is None:
                raise KeyboardInterrupt
            return {"score": 0.5}

        batches = TrainBatches(
            8,
            lambda epoch: iter([torch.randn(8, 1)]),
            split=lambda batch, n_parts: list(batch.chunk(n_parts)),
        )
        checkpoints = Checkpoints(tmp_path, every_seconds=0)
        config = TrainingConfig(max_epochs=2)
        fit_toy(module, config, evaluate, batches, loss, checkpoints=checkpoints)
        return module

    with pytest.raises(KeyboardInterrupt):
        run(max_rows=4, n_validations=1)
    assert sizes == [4] * 4
    resumed = run(max_rows=8, n_validations=1)
    assert sizes == [4] * 6
    assert not resumed.training
    finished = run(max_rows=8, n_validations=0)
    assert sizes == [4] * 6
    assert not finished.training
