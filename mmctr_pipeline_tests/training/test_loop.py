"""The loop on a toy module: stopping, best weights, clipping, divergence, history, progress."""

import itertools
import logging
import math

import pytest
import torch
from torch import nn

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.loop import TrainBatches
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.step import TrainingDivergedError
from mmctr_pipeline.training.stopping import EarlyStopping
from mmctr_pipeline_tests.training.toy_runs import Weight, fit_toy, make_batches, squared_error


class Script:
    """A validation that returns scripted values and records the weights it saw."""

    def __init__(self, values: list[float]) -> None:
        self.values = values
        self.weights: list[float] = []
        self.saw_training_mode = False

    def __call__(self, module: nn.Module) -> dict[str, float]:
        self.saw_training_mode |= module.training
        self.weights.append(module.get_parameter("weight").item())
        return {"score": self.values[len(self.weights) - 1]}


def run(
    values: list[float],
    larger_is_better: bool = True,
    max_epochs: int = 10,
    patience: int = 2,
) -> tuple[Weight, Script, TrainingHistory]:
    module, script = Weight(), Script(values)
    config = TrainingConfig(max_epochs=max_epochs, patience=patience)
    stopping = EarlyStopping(script, "score", config, larger_is_better)
    return module, script, fit_toy(module, config, stopping=stopping)


def test_early_stopping_restores_the_weights_of_the_best_epoch() -> None:
    module, script, history = run([0.1, 0.5, 0.4, 0.5, 0.9])
    assert len(script.weights) == 4
    assert len(set(script.weights)) == 4
    assert module.weight.item() == script.weights[1]
    assert history.best_epoch == 2
    assert history.best.metrics == {"score": 0.5}
    assert history.stopped_early
    assert not module.training
    assert not script.saw_training_mode


def test_a_smaller_metric_can_be_better() -> None:
    module, script, history = run([0.5, 0.3, 0.4, 0.6, 0.1], larger_is_better=False)
    assert history.best_epoch == 2
    assert module.weight.item() == script.weights[1]


def test_training_ends_after_the_last_epoch() -> None:
    _, script, history = run([0.1, 0.2, 0.3], max_epochs=3)
    assert len(script.weights) == 3
    assert history.best_epoch == 3
    assert not history.stopped_early


def test_the_history_has_metrics_learning_rate_and_speed_of_each_epoch() -> None:
    _, _, history = run([0.1, 0.2, 0.3], max_epochs=3)
    assert [record.epoch for record in history.epochs] == [1, 2, 3]
    first = history.epochs[0]
    assert first.learning_rate == 2e-3
    assert history.epochs[1].learning_rate < 2e-3
    assert first.rows_per_second == pytest.approx(6 / first.seconds, rel=0.05)
    plain = history.to_mapping()
    assert plain["epochs"][2]["metrics"] == {"score": 0.3}
    assert plain["best_epoch"] == 3


def test_train_loss_is_the_mean_over_rows_not_over_batches() -> None:
    batches = TrainBatches(4, lambda epoch: iter([torch.full((3,), 1.0), torch.full((1,), 5.0)]))
    history = fit_toy(
        Weight(),
        TrainingConfig(max_epochs=1),
        batches=batches,
        loss=lambda module, batch: (batch + 0 * module(batch)).mean(),
    )
    assert history.epochs[0].train_loss == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_raises_before_it_harms_the_weights(bad: float) -> None:
    module = nn.Linear(1, 1)
    n_calls = 0

    def loss(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return squared_error(module, batch) * (bad if n_calls == 5 else 1.0)

    with pytest.raises(TrainingDivergedError, match="epoch 3, step 1: the loss is"):
        fit_toy(module, TrainingConfig(max_epochs=9, patience=9), loss=loss)
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())


def test_a_metric_that_is_not_finite_raises() -> None:
    with pytest.raises(TrainingDivergedError, match="epoch 2: score is nan"):
        run([0.1, math.nan])


def test_gradients_are_clipped_by_their_global_norm() -> None:
    torch.manual_seed(1)
    module = nn.Linear(3, 2)
    inputs_BI = torch.randn(5, 3) * 1e3

    def loss(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return module(batch).square().mean()

    gradients = torch.autograd.grad(loss(module, inputs_BI), list(module.parameters()))
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 10
    config = TrainingConfig(max_epochs=1, gradient_clip_norm=0.7, precision="float32")
    fit_toy(module, config, batches=TrainBatches(5, lambda epoch: iter([inputs_BI])), loss=loss)
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient * 0.7 / norm, rtol=1e-4)


def test_progress_counts_on_through_the_parts_of_an_epoch(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=10)
    monkeypatch.setattr("mmctr_pipeline.files.progress.time.monotonic", lambda: next(clock))
    caplog.set_level(logging.INFO)
    config = TrainingConfig(max_epochs=1, validations_per_epoch=2)
    fit_toy(Weight(), config, batches=make_batches(2, 2, 2, 2))
    counts = [line.split("rows")[0] for line in caplog.messages if " left" in line]
    assert counts == ["epoch 1 of 1: 2 of 8 ", "epoch 1 of 1: 4 of 8 ", "epoch 1 of 1: 6 of 8 "]


def test_every_epoch_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fit_toy(Weight(), TrainingConfig(max_epochs=2))
    first, second = caplog.messages
    assert first.startswith("epoch 1 of 2: train loss ")
    assert "score 0.5000 (best)" in first
    assert "rows/s" in first
    assert "(best)" not in second
