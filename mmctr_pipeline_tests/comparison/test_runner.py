"""Rows in processes of their own: resumed, repeated, failing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from mmctr_pipeline import metrics
from mmctr_pipeline.comparison.runner import Entry
from mmctr_pipeline.comparison.table import Leaderboard
from mmctr_pipeline.comparison.user_split import selection_half
from mmctr_pipeline_tests.comparison.board_runs import (
    ENTRIES,
    runner,
    small_inputs,
)
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Return the storage of a leaderboard killed in its second row, and when the first was done."""
    storage = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "mmctr_pipeline_tests.comparison.board_runs"]
    process = subprocess.Popen(
        [*command, str(storage)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stdout is not None
    # The line of epoch 3 comes before its checkpoint: that of epoch 2 is what is left.
    for line in process.stdout:
        if line.startswith("long (seed 3): epoch 3 of 6: train loss"):
            break
    children = psutil.Process(process.pid).children()
    assert len(children) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # The row's process must not go on alone.
    assert psutil.wait_procs(children, timeout=30)[1] == []
    (done,) = (storage / "leaderboard").glob("*/result.json")
    return storage, done.stat().st_mtime


def run(storage: Path, entries: tuple[Entry, ...] = ENTRIES) -> tuple[Leaderboard, str]:
    lines: list[str] = []
    board = runner(storage, lines.append).run(entries)
    return board, "\n".join(lines)


def test_a_killed_run_goes_on_to_the_scores_of_an_undisturbed_one(
    killed: tuple[Path, float], tmp_path: Path
) -> None:
    storage, first_done = killed
    board, told = run(storage)
    assert "quick (seed 42): done before" in told
    assert "long (seed 3): going on from" in told
    assert "epoch 1 of 6" not in told
    results = {row.name: storage / "leaderboard" / row.outcomes[0].key for row in board.rows}
    assert (results["quick"] / "result.json").stat().st_mtime == first_done
    assert board.rows[1].results[0].epochs == 6
    assert board.rows[1].results[0].ended_by == "max_epochs"
    # What was trained before the kill counts, and the checkpoint is gone.
    assert len(board.rows[1].results[0].history["epochs"]) == 6
    assert list((storage / "checkpoints").glob("*")) == []

    undisturbed, told = run(tmp_path, ENTRIES[1:])
    assert "going on" not in told
    assert board.rows[1].outcomes[0].key == undisturbed.rows[0].outcomes[0].key
    np.testing.assert_array_equal(board.rows[1].scores[0], undisturbed.rows[0].scores[0])

    # The numbers are those of the saved scores on the half that selected nothing.
    valid = small_inputs().dataset.valid
    assert valid.label is not None
    label = valid.label[~selection_half(valid.user_id)]
    assert board.n_reporting_rows == len(label)
    saved = [np.load(results[row.name] / "scores.npy") for row in board.rows]
    for row, scores in zip(board.rows, saved, strict=True):
        assert scores.dtype == np.float32
        assert row.auc == pytest.approx(metrics.auc(label, scores), abs=1e-12)
        assert row.log_loss == metrics.log_loss(label, scores)
        evaluation = row.results[0].evaluation
        assert evaluation["auc"]["auc"] == row.auc
        assert sum(b["n_rows"] for b in evaluation["by_popularity"]) == len(label)
    assert board.rows[0].auc != board.rows[1].auc
    compared, behind = metrics.compare_auc(label, *saved), board.rows[1].behind
    assert behind is not None
    assert (behind.difference, behind.low) == (compared.difference, compared.low)
    # Done: nothing is trained any more, unless it is asked for.
    before = time.time()
    assert run(storage)[0].to_mapping() == board.to_mapping()
    lines: list[str] = []
    again = runner(storage, lines.append, again=True).run(ENTRIES[:1])
    assert (results["quick"] / "result.json").stat().st_mtime >= before
    np.testing.assert_array_equal(again.rows[0].scores[0], board.rows[0].scores[0])
    assert any("quick (seed 42): epoch 1 of 2: train loss" in line for line in lines)


def test_a_row_that_diverges_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    wild = dataclasses.replace(QUICK_TRAINING, learning_rate=1e30, gradient_clip_norm=1e30)
    limited = dataclasses.replace(QUICK_TRAINING, max_epochs=50, max_minutes=1e-6)
    entries = (Entry("wild", SMALL_MODEL, wild), Entry("limited", SMALL_MODEL, limited))
    board, told = run(tmp_path, entries)
    assert [row.name for row in board.rows] == ["limited", "wild"]
    assert board.failed == ["wild"]
    assert (board.rows[1].failure or "").startswith("TrainingDivergedError: epoch 1")
    assert "Traceback" in told
    assert board.rows[0].results[0].ended_by == "max_minutes"
    assert 0 < board.rows[0].results[0].epochs < 1
    assert 100 < board.rows[0].results[0].peak_mb < 4000
    # It is tried again, as what was wrong may have been put right.
    (done,) = (tmp_path / "leaderboard").glob("*/result.json")
    assert json.loads(done.read_text())["ended_by"] == "max_minutes"
    assert "wild (seed 42): training" in run(tmp_path, entries[:1])[1]
