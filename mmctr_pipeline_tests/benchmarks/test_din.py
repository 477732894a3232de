"""The benchmark's plain DIN is the same model as ours, and the benchmark runs."""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import model_speed
from benchmarks.din import DIN
from benchmarks.harness import ALLOCATOR_SETTING
from benchmarks.model_speed import run, settings
from benchmarks.plain_models import PaddedRows, PaddedTraining, padded_batches
from mmctr_pipeline.models.config import DinConfig
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline_tests.benchmarks.plain_model_case import (
    CPU,
    FEATURES,
    WIDTH,
    assert_same_model,
    build_pair,
    count_operations,
    dropout_rates,
    sample_dataset,
)

pytestmark = pytest.mark.bench

SMALL = DinConfig(
    attention_activation="relu",
    features=FEATURES,
    attention_hidden_dims=(16, 8),
    attention_dropout=0.0,
    hidden_dims=(16, 8),
    dropout=0.0,
)


@pytest.fixture(autouse=True)
def fuxictr() -> None:
    pytest.importorskip("fuxictr", reason="needs the bench extra")


def test_the_plain_form_has_our_logits_and_gradients_with_our_weights() -> None:
    assert_same_model(build_pair(DIN, SMALL))


def test_the_plain_form_has_dropout_in_the_same_places_as_ours() -> None:
    config = dataclasses.replace(SMALL, attention_dropout=0.1, dropout=0.25)
    plain = build_pair(DIN, config).plain
    assert dropout_rates(plain.get_submodule("attention")) == [0.1, 0.1]
    assert dropout_rates(plain.get_submodule("tower")) == [0.25, 0.25]


def test_each_use_of_a_weight_counts_six_operations() -> None:
    pair = build_pair(DIN, SMALL)
    item_dim = 8 + 8 + 12
    per_position = 2 * item_dim * 16 + 16 * 8 + 8 + item_dim
    tower = (2 * item_dim + 2 * 4) * 16 + 16 * 8 + 8
    per_row = item_dim * 16 + tower
    expected = 6 * (per_row + pair.length_N.mean() * per_position)
    assert DIN.operations_per_row(pair.ours, pair.length_N) == pytest.approx(expected)


def test_counted_operations_include_padding_and_counting_changes_no_weight() -> None:
    pair = build_pair(DIN, SMALL)
    training = PaddedTraining(pair.plain, settings(DIN)[1], CPU)
    before = [parameter.detach().clone() for parameter in pair.plain.parameters()]
    found = training.operations_per_row(pair.rows)
    assert found == count_operations(lambda: pair.plain(pair.rows)) / len(pair.rows["label"])
    item_dim = 8 + 8 + 12
    tower = (2 * item_dim + 2 * 4) * 16 + 16 * 8 + 8
    attention = 4 * item_dim * 16 + 16 * 8 + 8
    # Each weight of the vectors' 12 by 12 matrix counts four operations instead of six: the
    # matrix's input, the item's vector, needs no gradient.
    assert found == 6 * (tower + WIDTH * attention) + 4 * (WIDTH + 1) * 12**2
    assert all(map(torch.equal, before, pair.plain.parameters()))


def test_steps_train_every_parameter_and_continue_after_an_epoch() -> None:
    pair, (dataset, _) = build_pair(DIN, SMALL), sample_dataset()
    config = dataclasses.replace(settings(DIN)[1], learning_rate=1e-3)
    training = PaddedTraining(pair.plain, config, CPU)
    # Tables and network each have their own L2.
    decays = [group["weight_decay"] for group in training.optimizer.param_groups]
    assert decays == [0.0, 1e-6]
    before = [parameter.detach().clone() for parameter in pair.plain.parameters()]
    rows = PaddedRows(dataset.valid, dataset.histories, WIDTH)
    steps = training.steps(padded_batches(rows, 128, CPU))
    # 300 rows give two full batches per epoch.
    assert [next(steps) for _ in range(5)] == [128] * 5
    assert not any(map(torch.equal, before, pair.plain.parameters()))
    with pytest.raises(ValueError, match="trained with Adam"):
        PaddedTraining(pair.plain, TrainingConfig(), CPU)
    with pytest.raises(ValueError, match="not to 101"):
        PaddedRows(dataset.valid, dataset.histories, 101)


@pytest.mark.slow
def test_the_benchmark_prints_rates_ratios_and_shares_of_the_ceiling(
    small_sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_sides_in_this_process(
        module: str, sides: list[str], rounds: int, arguments: list[str], settings: object
    ) -> dict[str, list[dict[str, float]]]:
        assert (module, rounds, settings) == (
            "benchmarks.din",
            1,
            dict.fromkeys(sides, ALLOCATOR_SETTING),
        )
        results = {}
        for side in sides:
            monkeypatch.setattr(sys, "argv", ["din", "--side", side, *arguments])
            run(DIN, None)
            results[side] = [json.loads(capsys.readouterr().out.splitlines()[-1])]
        return results

    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    monkeypatch.setattr(model_speed, "alternate", run_sides_in_this_process)
    monkeypatch.setattr(model_speed, "read_sample", functools.cache(model_speed.read_sample))
    # Measuring would take longer than the rest of the test.
    monkeypatch.setattr(model_speed, "product_rate", lambda precision, device: 1e14)
    small = ["--rows=200", "--batch-size=64", "--seconds=0.1", "--device=cpu"]
    monkeypatch.setattr(sys, "argv", ["din", f"--data={small_sample}", *small])
    run(DIN, None)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["name"], line["unit"], line["device"]) == ("din", "rows/s", "cpu")
    assert (line["rows"], line["batch_size"], line["max_history"]) == (200, 64, 64)
    assert line["ratio"] == pytest.approx(line["ours"] / line["peer"], rel=1e-4)
    assert line["ratio_float32"] == pytest.approx(line["ours_float32"] / line["peer"], rel=1e-4)
    assert line["peer_share_of_ceiling"] < line["peer_share_of_padded_ceiling"] < 1
    assert 0 < line["share_of_ceiling_float32"] < 1
    assert 1 < line["mean_history"] < 64
    assert set(line["peak_mb"]) >= {"plain", "ours", "ours_float32"}
