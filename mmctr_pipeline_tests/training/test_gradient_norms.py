"""Gradient norms of each epoch are measured correctly and recorded."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import train_ctr
from mmctr_pipeline.training.loop import TrainBatches
from mmctr_pipeline.training.run_state import RunState
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL, small_sample
from mmctr_pipeline_tests.training.toy_runs import fit_toy

CPU = torch.device("cpu")


@pytest.mark.parametrize("clip_norm", [0.1, 1e9])
def test_mean_and_maximum_are_those_of_the_norms_before_clipping(clip_norm: float) -> None:
    torch.manual_seed(0)
    module, norms = nn.Linear(3, 2), []

    def epoch(number: int) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        return iter(torch.randn(4, 5, 3, generator=generator) * 10**number)

    def loss(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        value = module(batch).square().mean()
        gradients = torch.autograd.grad(value, list(module.parameters()), retain_graph=True)
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        return value

    config = TrainingConfig(
        max_epochs=2, validations_per_epoch=2, gradient_clip_norm=clip_norm, precision="float32"
    )
    history = fit_toy(module, config, batches=TrainBatches(20, epoch), loss=loss)
    assert len(norms) == 8
    for number, record in enumerate(history.epochs):
        expected = norms[2 * number : 2 * number + 2]
        assert record.gradient_norm == pytest.approx(sum(expected) / 2, rel=1e-5)
        assert record.largest_gradient_norm == pytest.approx(max(expected), rel=1e-5)


def test_row_adamw_records_the_same_gradient_norm_as_dense_adamw() -> None:
    norms = []
    for optimizer in ("row_adamw", "adamw"):
        training = dataclasses.replace(
            QUICK_TRAINING, optimizer=optimizer, max_epochs=1, batch_size=512, precision="float32"
        )
        trained = train_ctr(*small_sample(n_train=512), SMALL_MODEL, training, CPU)
        (record,) = trained.history.epochs
        assert record.gradient_norm == pytest.approx(record.largest_gradient_norm)
        norms.append(record.gradient_norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_records_of_earlier_versions_load_without_gradient_norms() -> None:
    fields = ("epoch", "train_loss", "learning_rate", "seconds", "validation_seconds")
    old = {**dict.fromkeys((*fields, "rows_per_second"), 1.0), "metrics": {"score": 0.5}}
    state = RunState()
    state.load_state_dict({**state.state_dict(), "records": [old], "best_index": 0})
    assert state.best is not None
    assert state.best.gradient_norm is None
