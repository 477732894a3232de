"""Each row runs in its own process, and is resumed, reused or repeated, or fails."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from mmctr_pipeline import metrics
from mmctr_pipeline.baselines import NAMES, baseline_scores
from mmctr_pipeline.comparison.entries import Entry
from mmctr_pipeline.comparison.row import run_row
from mmctr_pipeline.comparison.table import Leaderboard
from mmctr_pipeline.data.user_split import selects_epoch
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.presets.preset import Preset
from mmctr_pipeline_tests.comparison.board_runs import ENTRIES, LONG_MODEL, runner, small_inputs
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL

REPOSITORY = Path(__file__).parents[2]
RUN_PROCESS = "mmctr_pipeline.comparison.runner._run_process"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Kill a comparison while its second row trains.

    Return its storage folder, and the time at which its first row was done.
    """
    storage = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "mmctr_pipeline_tests.comparison.board_runs"]
    process = subprocess.Popen(
        [*command, str(storage)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stdout is not None
    # Epoch 3 is logged after the checkpoint of epoch 2 is written.
    for line in process.stdout:
        if line.startswith("long (seed 3): epoch 3 of 6: train loss"):
            break
    children = psutil.Process(process.pid).children()
    assert len(children) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # The row's process must end with its parent.
    assert psutil.wait_procs(children, timeout=900)[1] == []
    (done,) = (storage / "leaderboard").glob("*/result.json")
    return storage, done.stat().st_mtime


@pytest.fixture(autouse=True)
def log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def run(
    caplog: pytest.LogCaptureFixture,
    storage: Path,
    entries: Sequence[Entry] = ENTRIES,
    again: bool = False,
) -> tuple[Leaderboard, str]:
    """Run the comparison, and return its table and its log."""
    caplog.clear()
    board = runner(storage, again).run(entries)
    return board, "\n".join(caplog.messages)


@pytest.fixture
def rows_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train rows in this process, which saves time."""
    monkeypatch.setattr(RUN_PROCESS, lambda folder, label: run_row(folder))


@pytest.mark.slow
def test_a_killed_comparison_resumes_and_gets_the_scores_of_an_undisturbed_one(
    killed: tuple[Path, float],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, first_done = killed
    board, log = run(caplog, storage)
    assert "quick (seed 42): done before" in log
    assert "long (seed 3): training" in log
    assert "epoch 1 of 6" not in log
    quick, long = (row.outcomes[0] for row in board.rows)
    result_file = storage / "leaderboard" / quick.key / "result.json"
    assert result_file.stat().st_mtime == first_done
    assert long.result is not None
    assert (long.result.epochs, long.result.ended_by) == (6, "max_epochs")
    # The epochs before the kill are in the history, and the checkpoint is gone.
    assert len(long.result.history["epochs"]) == 6
    assert list((storage / "checkpoints").glob("*")) == []

    monkeypatch.setattr(RUN_PROCESS, lambda folder, label: run_row(folder))
    undisturbed, log = run(caplog, tmp_path, ENTRIES[1:])
    assert "epoch 1 of 6" in log
    assert long.key == undisturbed.rows[0].outcomes[0].key
    np.testing.assert_array_equal(board.rows[1].scores[0], undisturbed.rows[0].scores[0])


@pytest.mark.usefixtures("rows_in_this_process")
def test_finished_rows_are_measured_by_their_saved_scores_and_not_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board, _ = run(caplog, tmp_path)
    # Measures are computed from the saved scores of users who do not select the epoch.
    valid = small_inputs().dataset.valid
    assert valid.label is not None
    label = valid.label[~selects_epoch(valid.user_id)]
    assert board.n_reporting_rows == len(label)
    folders = [tmp_path / "leaderboard" / row.outcomes[0].key for row in board.rows]
    saved = [np.load(folder / "scores.npy") for folder in folders]
    for row, scores in zip(board.rows, saved, strict=True):
        assert scores.dtype == np.float32
        assert row.measures["auc"] == pytest.approx(metrics.auc(label, scores), abs=1e-12)
        assert row.measures["log_loss"] == metrics.log_loss(label, scores)
        result = row.outcomes[0].result
        assert result is not None
        assert result.evaluation["auc"]["auc"] == row.measures["auc"]
        assert sum(b["n_rows"] for b in result.evaluation["by_popularity"]) == len(label)
    assert board.rows[0].measures["auc"] != board.rows[1].measures["auc"]
    compared, behind = metrics.compare_auc(label, *saved), board.rows[1].behind
    assert behind is not None
    assert (behind.difference, behind.low) == (compared.difference, compared.low)
    # The baselines are fitted on train alone, and measured on the same rows as the models.
    dataset, vectors = small_inputs().dataset, small_inputs().vectors
    reporting = valid.take(~selects_epoch(valid.user_id))
    trivial = baseline_scores(dataset, reporting, vectors.text).scores
    areas = {NAMES[key]: metrics.auc(label, each) for key, each in trivial.items()}
    assert {row.name: row.measures["auc"] for row in board.baselines} == pytest.approx(areas)
    assert len(areas) == 3
    # Finished rows are trained again only with `again`.
    before = time.time()
    assert run(caplog, tmp_path)[0].to_mapping() == board.to_mapping()
    assert all((folder / "result.json").stat().st_mtime < before for folder in folders)
    again, log = run(caplog, tmp_path, ENTRIES[:1], again=True)
    assert (folders[0] / "result.json").stat().st_mtime >= before
    np.testing.assert_array_equal(again.rows[0].scores[0], board.rows[0].scores[0])
    assert "epoch 1 of 2: train loss" in log


@pytest.mark.slow
@pytest.mark.slow
def test_a_row_that_diverges_shows_why_and_the_others_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = small_inputs()
    fused = inputs.vectors.fused
    # Products of vectors this large are infinite in float32.
    fused = dataclasses.replace(fused, vectors=fused.vectors * np.float32(3e37))
    huge = dataclasses.replace(inputs.vectors, fused=fused)
    features = dataclasses.replace(LONG_MODEL.features, vector_projection=True)
    diverging = Preset(
        model=dataclasses.replace(LONG_MODEL, features=features),
        training=QUICK_TRAINING,
        fusion=FusionConfig(dim=7),
    )
    limited = dataclasses.replace(QUICK_TRAINING, max_epochs=50, max_minutes=1e-6)
    entries = [
        Entry("diverging", diverging),
        Entry("limited", Preset(model=SMALL_MODEL, training=limited)),
    ]
    comparison = dataclasses.replace(
        runner(tmp_path),
        vectors=lambda entry: huge if entry.name == "diverging" else inputs.vectors,
    )
    board, log = comparison.run(entries), "\n".join(caplog.messages)
    assert [row.name for row in board.rows] == ["limited", "diverging"]
    assert list(board.failures) == ["diverging"]
    assert board.failures["diverging"].startswith("TrainingDivergedError: epoch 1")
    assert "Traceback" in log
    result = board.rows[0].outcomes[0].result
    assert result is not None
    assert result.ended_by == "max_minutes"
    assert 0 < result.epochs < 1
    assert 100 < result.peak_mb < 4000
    # The failed row is tried again, as its cause may have been corrected.
    (done,) = (tmp_path / "leaderboard").glob("*/result.json")
    assert json.loads(done.read_text())["ended_by"] == "max_minutes"
    monkeypatch.setattr(RUN_PROCESS, lambda folder, label: "diverged again")
    assert comparison.run(entries).failures == {"diverging": "diverged again"}


def test_rows_with_equal_vector_settings_share_their_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = small_inputs()
    computed: list[Entry] = []

    def vectors(entry: Entry) -> ItemVectors:
        computed.append(entry)
        return dataclasses.replace(inputs.vectors, image=None) if entry.without else inputs.vectors

    # Only the inputs matter here, so no row is trained.
    monkeypatch.setattr(RUN_PROCESS, lambda folder, label: "not run")
    entries = [
        Entry("first", ENTRIES[0].preset),
        Entry("other model", ENTRIES[1].preset),
        Entry("without", ENTRIES[0].preset, without=("image",)),
    ]
    board = dataclasses.replace(runner(tmp_path), vectors=vectors).run(entries, n_seeds=2)
    assert [entry.name for entry in computed] == ["first", "without"]
    first, other, without = (row.outcomes for row in board.rows)
    assert [outcome.seed for outcome in (*first, *other)] == [42, 43, 3, 4]
    assert len({outcome.inputs for outcome in (*first, *other)}) == 1
    assert first[0].inputs != without[0].inputs
    folders = {path.name for path in (tmp_path / "leaderboard" / "inputs").iterdir()}
    assert {first[0].inputs, without[0].inputs} < folders
