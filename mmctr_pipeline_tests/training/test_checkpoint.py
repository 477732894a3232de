"""Checkpoints: written when due, replaced as a whole or not at all, removed with their folder."""

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
from mmctr_pipeline.training.loop import TrainBatches, Validation, fit

CPU = torch.device("cpu")


def loaded(checkpoints: Checkpoints) -> Any:
    return checkpoints.load(CPU)


def test_there_is_none_before_one_is_written(tmp_path: Path) -> None:
    assert loaded(Checkpoints(tmp_path / "run")) is None


def test_a_state_comes_back_as_it_was_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path / "run", every_seconds=0)
    state = {"weights": torch.arange(3.0), "epoch": 2.5, "nested": [{"best": -1, "x": None}]}
    checkpoints.save(lambda: state)
    caplog.set_level(logging.INFO)
    found = checkpoints.load(CPU)
    assert found is not None
    assert torch.equal(found.pop("weights"), state["weights"])
    assert found == {"epoch": 2.5, "nested": [{"best": -1, "x": None}]}
    assert caplog.messages == [f"going on from {tmp_path / 'run' / 'checkpoint.pt'}"]


def test_none_is_written_sooner_than_the_interval_since_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every_seconds=0.4)
    asked = []

    def state() -> dict[str, int]:
        asked.append(1)
        return {"n": len(asked)}

    checkpoints.save(state)
    assert not checkpoints.path.exists()
    time.sleep(0.45)
    checkpoints.save(state)
    checkpoints.save(state)
    assert loaded(checkpoints) == {"n": 1}
    time.sleep(0.45)
    checkpoints.save(state)
    assert loaded(checkpoints) == {"n": 2}
    assert len(asked) == 2


def test_removing_takes_the_folder_and_may_be_done_twice(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", every_seconds=0)
    checkpoints.save(dict)
    checkpoints.remove()
    checkpoints.remove()
    assert not (tmp_path / "run").exists()
    assert loaded(checkpoints) is None


def test_a_state_that_cannot_be_made_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every_seconds=0)
    checkpoints.save(lambda: {"n": 1})

    def fail() -> dict[str, Any]:
        raise RuntimeError("flush before asking for the state")

    with pytest.raises(RuntimeError, match="flush before"):
        checkpoints.save(fail)
    assert loaded(checkpoints) == {"n": 1}
    assert list(tmp_path.glob("*.pt")) == [checkpoints.path]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"checkpoint\.pt cannot be read .* remove it to train"):
        loaded(checkpoints)


def test_runs_that_anything_decisive_tells_apart_have_folders_of_their_own(tmp_path: Path) -> None:
    known = {"config": {"seed": 1, "patience": 2}, "data": "abc", "vectors": ["x", "y"]}
    key = run_key(**known)
    assert run_key(vectors=["x", "y"], data="abc", config={"patience": 2, "seed": 1}) == key
    others = [{**known, "data": "abd"}, {**known, "config": {"seed": 2, "patience": 2}}]
    others.append({**known, "vectors": ["y", "x"]})
    keys = {run_key(**other) for other in others}
    assert len(keys | {key}) == 4
    folders = {Checkpoints.of_run(tmp_path, each).folder for each in keys | {key}}
    assert {folder.parent for folder in folders} == {tmp_path / "checkpoints"}
    assert len(folders) == 4


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import torch
from mmctr_pipeline.training.checkpoint import Checkpoints

class Deadly:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints = Checkpoints(Path(sys.argv[1]), every_seconds=0)
checkpoints.save(lambda: {"n": 1})
checkpoints.save(lambda: {"n": 2, "weights": torch.zeros(100_000), "last": Deadly()})
"""


def test_a_kill_in_the_middle_of_writing_leaves_the_one_before(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    checkpoints = Checkpoints(tmp_path, every_seconds=0)
    assert loaded(checkpoints) == {"n": 1}
    assert len(list(tmp_path.glob("*.pt"))) == 2
    checkpoints.save(lambda: {"n": 3})
    assert loaded(checkpoints) == {"n": 3}
    # What the killed one left behind is gone.
    assert list(tmp_path.glob("*.pt")) == [checkpoints.path]


def test_a_run_taken_up_again_keeps_its_parts_and_ends_in_evaluation_mode(tmp_path: Path) -> None:
    sizes: list[int] = []

    def run(most_rows: int, n_validations: int) -> nn.Module:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        validations = iter(range(n_validations))

        def loss(module: nn.Module, rows_B1: torch.Tensor) -> torch.Tensor:
            if len(rows_B1) > most_rows:
                raise torch.OutOfMemoryError
            sizes.append(len(rows_B1))
            return module(rows_B1).square().mean()

        def evaluate(module: nn.Module) -> dict[str, float]:
            if next(validations, None) is None:
                raise KeyboardInterrupt
            return {"score": 0.5}

        fit(
            module,
            {"main": list(module.parameters())},
            TrainBatches(
                8,
                lambda epoch: iter([torch.randn(8, 1)]),
                split=lambda batch, n_parts: list(batch.chunk(n_parts)),
            ),
            loss,
            Validation(evaluate, "score"),
            TrainingConfig(max_epochs=2),
            Checkpoints(tmp_path, every_seconds=0),
        )
        return module

    with pytest.raises(KeyboardInterrupt):
        run(most_rows=4, n_validations=1)
    assert sizes == [4] * 4
    resumed = run(most_rows=8, n_validations=1)
    assert sizes == [4] * 6
    assert not resumed.training
    finished = run(most_rows=8, n_validations=0)
    assert sizes == [4] * 6
    assert not finished.training
