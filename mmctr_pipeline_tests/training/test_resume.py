"""Killed at any time and started again, a run ends with the same weights, bit by bit."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.loop import TrainBatches, Validation, fit
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.step import TrainingDivergedError
from mmctr_pipeline_tests.training.killed_runs import RUNS, n_parts_in, result_of

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(name="runs", scope="module")
def folder_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    result = subprocess.run(
        [sys.executable, "-m", "mmctr_pipeline_tests.training.killed_runs", folder],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    return folder


def without_times(result: dict[str, Any]) -> tuple[dict, list[dict], dict, dict]:
    """Return metrics, records, the rest of the history and the final fit, but for their times."""
    timed = {"seconds", "validation_seconds", "rows_per_second", "train_rows_per_second"}

    def untimed(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in timed}

    history = dict(result["history"])
    records = [untimed(record) for record in history.pop("epochs")]
    return untimed(result["metrics"]), records, history, untimed(result["final_fit"])


def assert_same_result(result: dict[str, Any], expected: dict[str, Any]) -> None:
    assert result["weights"].keys() == expected["weights"].keys()
    for name, tensor in expected["weights"].items():
        assert torch.equal(result["weights"][name], tensor), name
    assert np.array_equal(result["scores"], expected["scores"])
    assert without_times(result) == without_times(expected)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_in_any_part_ends_as_if_it_had_not_been(runs: Path, name: str) -> None:
    expected = result_of(runs, name, None)
    n_parts = n_parts_in(expected["lines"])
    for killed_at in range(1, n_parts + 1):
        result = result_of(runs, name, killed_at)
        assert_same_result(result, expected)
        # It went on and did not begin anew: there were checkpoints of all parts before.
        assert n_parts_in(result["lines"]) == n_parts - (killed_at - 1)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_in_every_part_and_after_its_end_too(runs: Path, name: str) -> None:
    result = result_of(runs, name, "each")
    assert_same_result(result, result_of(runs, name, None))
    assert n_parts_in(result["lines"]) == 0


def test_the_runs_show_what_they_are_for(runs: Path) -> None:
    histories = {name: result_of(runs, name, None)["history"] for name in RUNS}
    rates = {
        name: [record["learning_rate"] for record in history["epochs"]]
        for name, history in histories.items()
    }
    cosine, plateau = rates["cosine restarts"], rates["plateau"]
    assert len(cosine) == 8
    assert cosine[1] == cosine[2] > cosine[4] < cosine[6]
    assert plateau[0] > plateau[-1]
    stopped = histories["early stopping"]
    assert stopped["stopped_early"]
    assert len(stopped["epochs"]) == stopped["best_epoch"] + 2 < 9
    final = result_of(runs, "final fit", None)
    n_selection, n_final = len(histories["final fit"]["epochs"]), 2 * final["final_fit"]["n_epochs"]
    assert 1 <= n_final < n_selection
    assert n_parts_in(final["lines"]) == n_selection + n_final


class Toy:
    """A run on batches that hold their epoch's number; from epoch `bad_from` the loss is NaN."""

    def __init__(self, values: list[float], bad_from: float = math.inf) -> None:
        self.values = dict(enumerate(values, start=1))
        self.bad_from = bad_from
        self.weights: dict[float, float] = {}
        self.epoch = 0
        torch.manual_seed(0)
        self.module = nn.Linear(1, 1, bias=False)

    def batches(self, epoch: int) -> Iterator[torch.Tensor]:
        self.epoch = epoch
        return iter([torch.full((4, 1), float(epoch)), torch.full((2, 1), float(epoch))])

    def loss(self, module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        value = (module(batch) - 3 * batch).square().mean()
        # The first step of the bad epoch is a good one: its weights are not to stay.
        return value * (math.nan if self.epoch >= self.bad_from and len(batch) == 2 else 1.0)

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        self.weights[self.epoch] = module.weight.item()  # type: ignore[operator, union-attr]
        return {"score": self.values[self.epoch]}

    def run(self, checkpoints: Checkpoints) -> TrainingHistory:
        return fit(
            self.module,
            {"main": list(self.module.parameters())},
            TrainBatches(6, self.batches),
            self.loss,
            Validation(self.evaluate, "score"),
            TrainingConfig(max_epochs=4, precision="float32"),
            checkpoints,
        )


@pytest.mark.parametrize(("values", "best"), [([0.1, 0.2, 0.3, 0.4], 2), ([0.5, 0.2, 0.3, 0.4], 1)])
def test_a_diverged_run_keeps_its_best_weights_and_its_last_good_checkpoint(
    tmp_path: Path, values: list[float], best: int
) -> None:
    checkpoints = Checkpoints(tmp_path / "run", every_seconds=0)
    diverged = Toy(values, bad_from=3)
    with pytest.raises(TrainingDivergedError, match="epoch 3, step 2: the loss is nan"):
        diverged.run(checkpoints)
    assert diverged.module.weight.item() == diverged.weights[best]
    state = checkpoints.load(torch.device("cpu"))
    assert state is not None
    assert [record["epoch"] for record in state["run_state"]["records"]] == [1, 2]
    assert state["module"]["weight"].item() == diverged.weights[2]

    # What it goes on from is as good as if nothing had been wrong.
    going_on, never_bad = Toy(values), Toy(values)
    history = going_on.run(checkpoints)
    never_bad.run(Checkpoints(tmp_path / "other", every_seconds=0))
    assert set(going_on.weights) == {3, 4}
    assert going_on.weights.items() <= never_bad.weights.items()
    assert going_on.module.weight.item() == never_bad.module.weight.item()
    assert [record.epoch for record in history.epochs] == [1, 2, 3, 4]
