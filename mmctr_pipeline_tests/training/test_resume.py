"""A run that is killed in any part and started again ends with the same weights, bit for bit."""

import functools
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.loop import TrainBatches
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.step import TrainingDivergedError
from mmctr_pipeline_tests.training.killed_runs import RUNS, count_parts, load_result
from mmctr_pipeline_tests.training.toy_runs import Weight, fit_toy, squared_error

REPOSITORY = Path(__file__).parents[2]
QUICK_RUN = "final fit"


@functools.cache
def results(name: str, kills: str = "every") -> dict[int | str | None, dict[str, Any]]:
    """Return the results of a run without a kill (None) and with `any` or `every` kill.

    Those of `any` single kill are by the part that it hit.
    """
    with tempfile.TemporaryDirectory() as folder:
        module = "mmctr_pipeline_tests.training.killed_runs"
        command = [sys.executable, "-m", module, folder, name, kills]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=REPOSITORY, env=environment
        )
        assert done.returncode == 0, done.stderr
        undisturbed = load_result(Path(folder), None)
        parts = range(1, count_parts(undisturbed["lines"]) + 1)
        killed_at: Iterable[int | str] = parts if kills == "any" else ("each",)
        return {None: undisturbed, **{n: load_result(Path(folder), n) for n in killed_at}}


def without_times(result: dict[str, Any]) -> tuple[dict, list[dict], dict, dict]:
    """Return metrics, records, the rest of the history and the final fit, without their times."""
    times = {"seconds", "validation_seconds", "rows_per_second", "train_rows_per_second"}

    def untimed(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in times}

    history = dict(result["history"])
    records = [untimed(record) for record in history.pop("epochs")]
    return untimed(result["metrics"]), records, history, untimed(result["final_fit"])


def assert_same_result(result: dict[str, Any], expected: dict[str, Any]) -> None:
    assert result["weights"].keys() == expected["weights"].keys()
    for name, tensor in expected["weights"].items():
        assert torch.equal(result["weights"][name], tensor), name
    assert np.array_equal(result["scores"], expected["scores"])
    assert without_times(result) == without_times(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_in_any_part_ends_as_if_undisturbed(name: str) -> None:
    expected = results(name, "any")[None]
    n_parts = count_parts(expected["lines"])
    for killed_at in range(1, n_parts + 1):
        result = results(name, "any")[killed_at]
        assert_same_result(result, expected)
        # It resumed from the checkpoint of the previous part instead of beginning again.
        assert count_parts(result["lines"]) == n_parts - (killed_at - 1)


@pytest.mark.parametrize(
    "name",
    [name if name == QUICK_RUN else pytest.param(name, marks=pytest.mark.slow) for name in RUNS],
)
def test_a_run_killed_in_every_part_ends_as_if_undisturbed(name: str) -> None:
    # The last start found the run finished, so that it logged no part.
    result = results(name)["each"]
    assert_same_result(result, results(name)[None])
    assert count_parts(result["lines"]) == 0


def learning_rates(name: str) -> list[float]:
    return [record["learning_rate"] for record in results(name)[None]["history"]["epochs"]]


@pytest.mark.slow
def test_the_runs_cover_restarts_plateaus_and_early_stopping() -> None:
    cosine, plateau = learning_rates("cosine restarts"), learning_rates("plateau")
    assert len(cosine) == 8
    assert cosine[1] == cosine[2] > cosine[4] < cosine[6]
    assert plateau[0] > plateau[-1]
    stopped = results("early stopping")[None]["history"]
    assert stopped["stopped_early"]
    assert len(stopped["epochs"]) == stopped["best_epoch"] + 2 < 9


def test_the_quick_run_covers_a_final_fit_shorter_than_selection() -> None:
    final = results(QUICK_RUN)[None]
    n_selection, n_final = len(final["history"]["epochs"]), 2 * final["final_fit"]["n_epochs"]
    assert 1 <= n_final < n_selection
    assert count_parts(final["lines"]) == n_selection + n_final


class ToyRun:
    """A run on batches that hold their epoch's number; from epoch `bad_from` on, losses are NaN."""

    def __init__(self, values: list[float], bad_from: float = math.inf) -> None:
        self.values = dict(enumerate(values, start=1))
        self.bad_from = bad_from
        self.weights: dict[float, float] = {}
        self.epoch = 0
        self.module = Weight()

    def batches(self, epoch: int) -> Iterator[torch.Tensor]:
        self.epoch = epoch
        return iter([torch.full((4, 1), float(epoch)), torch.full((2, 1), float(epoch))])

    def loss(self, module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        # The first step of the bad epoch is good, but the weights after it must not be kept.
        is_bad = self.epoch >= self.bad_from and len(batch) == 2
        return squared_error(module, batch) * (math.nan if is_bad else 1.0)

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        self.weights[self.epoch] = self.module.weight.item()
        return {"score": self.values[self.epoch]}

    def run(self, checkpoints: Checkpoints) -> TrainingHistory:
        config = TrainingConfig(max_epochs=4, precision="float32")
        batches = TrainBatches(6, self.batches)
        return fit_toy(
            self.module, config, self.evaluate, batches, self.loss, checkpoints=checkpoints
        )


@pytest.mark.parametrize(("values", "best"), [([0.1, 0.2, 0.3, 0.4], 2), ([0.5, 0.2, 0.3, 0.4], 1)])
def test_a_diverged_run_keeps_its_best_weights_and_its_last_good_checkpoint(
    tmp_path: Path, values: list[float], best: int
) -> None:
    checkpoints = Checkpoints(tmp_path / "run", every_seconds=0)
    diverged = ToyRun(values, bad_from=3)
    with pytest.raises(TrainingDivergedError, match="epoch 3, step 2: the loss is nan"):
        diverged.run(checkpoints)
    assert diverged.module.weight.item() == diverged.weights[best]
    saved = checkpoints.load(torch.device("cpu"))
    assert saved is not None
    assert [record["epoch"] for record in saved["state"]["records"]] == [1, 2]
    assert saved["module"]["weight"].item() == diverged.weights[2]

    # A run resumed from there equals one in which nothing was wrong.
    resumed, never_bad = ToyRun(values), ToyRun(values)
    history = resumed.run(checkpoints)
    never_bad.run(Checkpoints(tmp_path / "other", every_seconds=0))
    assert set(resumed.weights) == {3, 4}
    assert resumed.weights.items() <= never_bad.weights.items()
    assert resumed.module.weight.item() == never_bad.module.weight.item()
    assert [record.epoch for record in history.epochs] == [1, 2, 3, 4]
