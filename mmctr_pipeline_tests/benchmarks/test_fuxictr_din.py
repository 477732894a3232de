"""FuxiCTR's DIN trains on the leaderboard's rows and is compared with each row of the table."""

import itertools
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import fuxictr_din
from benchmarks.fuxictr_din import (
    PaddedBatches,
    build_din,
    compare,
    padded_histories,
    train_din,
)
from mmctr_pipeline import metrics
from mmctr_pipeline.comparison.entries import preset_entries
from mmctr_pipeline.comparison.inputs import TrainingInputs
from mmctr_pipeline.data.user_split import split_valid
from mmctr_pipeline.models.config import DinConfig
from mmctr_pipeline.training.batch_source import item_features
from mmctr_pipeline_tests.comparison.board_runs import small_inputs
from mmctr_pipeline_tests.hidden_packages import hide_packages

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def inputs() -> TrainingInputs:
    return small_inputs()


def test_batch_rows_hold_the_newest_twenty_items_of_a_history_then_the_target(
    inputs: TrainingInputs,
) -> None:
    dataset = inputs.dataset
    batches = PaddedBatches(dataset.train, padded_histories(dataset))
    assert len(batches) == 1
    (batch,) = batches
    assert batch["items"].shape == (len(dataset.train), 21)
    for row in (0, 7, 2999):
        history = dataset.histories[dataset.train.history[row]][-20:].tolist()
        expected = [0] * (20 - len(history)) + [*history, dataset.train.item_id[row]]
        assert batch["items"][row].tolist() == expected
    shuffled = PaddedBatches(dataset.train, padded_histories(dataset), shuffle_seed=1)
    epochs = [next(iter(shuffled))["items"] for _ in range(2)]
    assert not torch.equal(*epochs)
    assert torch.equal(*(epoch.sum(0) for epoch in epochs))


def test_our_settings_file_matches_the_constants_of_fuxictr_din() -> None:
    (entry,) = preset_entries([str(REPOSITORY / "benchmarks" / "din_fuxictr_settings.yaml")])
    ours = entry.preset
    model, training = ours.model.to_mapping(), ours.training
    features = model["features"]
    assert ours.model.max_history == fuxictr_din.HISTORY_LENGTH
    assert features["embedding_dim"] == features["level_embedding_dim"]
    assert features["embedding_dim"] == fuxictr_din.EMBEDDING_DIM
    assert (training.batch_size, training.seed) == (fuxictr_din.BATCH_SIZE, fuxictr_din.FIRST_SEED)
    assert training.max_epochs == fuxictr_din.MAX_EPOCHS
    assert training.patience == fuxictr_din.PATIENCE
    assert training.learning_rate == fuxictr_din.LEARNING_RATE
    assert training.embedding_weight_decay == fuxictr_din.EMBEDDING_L2
    assert (training.optimizer, training.weight_decay) == ("adam", 0.0)
    assert (training.schedule, training.plateau_factor) == ("plateau", 0.1)
    assert list(model["attention_hidden_dims"]) == fuxictr_din.ATTENTION_DIMS
    assert (model["attention_activation"], model["attention_softmax"]) == ("dice", False)
    assert list(model["hidden_dims"]) == fuxictr_din.TOWER_DIMS
    assert model["dropout"] == model["attention_dropout"] == fuxictr_din.DROPOUT


def test_a_table_is_compared_row_by_row(inputs: TrainingInputs, tmp_path: Path) -> None:
    label = split_valid(inputs.dataset)[1].label
    assert label is not None
    generator = np.random.default_rng(0)
    peer = [generator.random(len(label)).astype(np.float32)]
    rows = []
    for name, strength in (("first", 1.0), ("second", 0.2)):
        scores = (generator.random(len(label)) + strength * label).astype(np.float32)
        (tmp_path / f"key-{name}").mkdir()
        np.save(tmp_path / f"key-{name}" / "scores.npy", scores)
        keys = [f"key-{name}", "key-of-a-second-seed"]
        row = {"row": name, "keys": keys, "inputs": [inputs.key, inputs.key]}
        rows.append((row, scores))
    failed = {"row": "failed", "failure": "diverged", "keys": ["none"], "inputs": [inputs.key]}
    board = {"rows": [row for row, _ in rows] + [failed]}
    (tmp_path / "table.json").write_text(json.dumps(board))
    compared = compare(tmp_path / "table.json", inputs, peer)
    assert [row["row"] for row in compared] == ["first", "second"]
    for row, (_, scores) in zip(compared, rows, strict=True):
        expected = metrics.compare_auc(label, scores, peer[0])
        assert (row["difference"], row["low"]) == (expected.difference, expected.low)
        assert row["seeds"] == 1  # the peer has only one
        assert row["auc"] == pytest.approx(metrics.auc(label, scores))
    rows[1][0]["inputs"][1] = "other inputs"
    (tmp_path / "table.json").write_text(json.dumps(board))
    with pytest.raises(SystemExit, match="other data or vectors"):
        compare(tmp_path / "table.json", inputs, peer)


@pytest.mark.slow
@pytest.mark.bench
def test_stored_scores_are_reused_and_the_rest_is_trained(
    inputs: TrainingInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("fuxictr", reason="needs the bench extra")
    label = split_valid(inputs.dataset)[1].label
    assert label is not None
    scores = np.random.default_rng(0).random(len(label)).astype(np.float32)
    folder = tmp_path / "leaderboard" / f"fuxictr_din-{inputs.key}"
    folder.mkdir(parents=True)
    np.save(folder / "scores-42-epochs-1.npy", scores)
    # These are not reused, since they were trained for more epochs than asked for.
    np.save(folder / "scores-43-epochs-12.npy", scores)
    monkeypatch.setattr(fuxictr_din, "_inputs", lambda data: (inputs, tmp_path))
    monkeypatch.setattr(sys, "argv", ["fuxictr_din", "--kept", "--seeds=2", "--epochs=1"])
    fuxictr_din.main()
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    trained = np.load(folder / "scores-43-epochs-1.npy")
    expected = (metrics.auc(label, scores) + metrics.auc(label, trained)) / 2
    assert line["peer"] == pytest.approx(expected, abs=1e-6)
    assert not np.array_equal(trained, scores)
    assert np.array_equal(np.load(folder / "scores-42-epochs-1.npy"), scores)


@pytest.mark.slow
@pytest.mark.bench
def test_the_peer_has_the_expected_parameters_and_learns(
    inputs: TrainingInputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("fuxictr", reason="needs the bench extra")
    items = item_features(inputs.dataset.items, inputs.vectors, DinConfig())
    model = build_din(items, seed=1, folder=tmp_path)
    item_dim = 64 + 64 + 12
    tables = (11 + 11 + 61 + 2) * 64 + 12 * 12
    attention = 4 * item_dim * 512 + 512 * 256 + 256 + (512 + 256 + 1) + (512 + 256)
    widths = (2 * 64 + 2 * item_dim, 1024, 512, 256)
    tower = sum(a * b + 3 * b for a, b in itertools.pairwise(widths)) + 257
    assert sum(p.numel() for p in model.parameters()) == tables + attention + tower
    # Only embeddings are regularised, by lambda / 2 times the sum of their squares.
    embedding = [p.detach() for p in model.embedding_layer.parameters()]
    squares = sum(float(p.square().sum()) for p in embedding)
    assert model.regularization_loss().item() == pytest.approx(1e-6 / 2 * squares, rel=1e-4)
    embeddings = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    assert len(embeddings) == 4
    assert all(0.5e-4 < float(table.std()) < 2e-4 for table in embeddings)

    with caplog.at_level(logging.INFO):
        scores = train_din(inputs, seed=1, max_epochs=3)
    label = split_valid(inputs.dataset)[1].label
    assert label is not None
    assert scores.shape == label.shape
    assert "Epoch=3" in caplog.text
    assert metrics.auc(label, scores) > 0.6


@pytest.mark.slow
def test_without_fuxictr_the_error_names_the_command_that_installs_it() -> None:
    start = "sys.argv = ['fuxictr_din']; from benchmarks.fuxictr_din import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", hide_packages("fuxictr") + start],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=900,
    )
    assert result.returncode == 1
    assert result.stderr.strip().endswith("make install EXTRAS=dev,bench")
    assert "Traceback" not in result.stderr
