"""Training and scoring on a fake CUDA device: nothing mixes devices, and no step waits."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import fake_tensor

from mmctr_pipeline.comparison.entries import Entry
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.training.averaging import WeightAverage
from mmctr_pipeline.training.batch_source import BatchSource, feature_spec, item_features
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.losses import ctr_loss, redrawn_logits
from mmctr_pipeline.training.optimizers.build import Optimizers
from mmctr_pipeline.training.score import score
from mmctr_pipeline.training.step import LossMeter, TrainStep
from mmctr_pipeline_tests.models.zoo import (
    SMALL_MODELS,
    batch_of_train_rows,
    random_items,
    small_model,
)
from mmctr_pipeline_tests.presets.test_same_seed import EACH_PRESET, narrow
from mmctr_pipeline_tests.training import fake_cuda
from mmctr_pipeline_tests.training.fake_cuda import DEVICE, FakeCuda, HostWaitsError
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample

BATCH_SIZE = 64
DATASET, _vectors = small_sample(n_train=500, n_valid=200)
VECTORS = ItemVectors(_vectors.fused, text=_vectors.fused, image=_vectors.fused)


@pytest.fixture(autouse=True)
def _driver(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda.pretend_driver(monkeypatch)


def model_on_device(config: ModelConfig) -> CtrModel:
    model = build_model(config, feature_spec(DATASET, VECTORS, config))
    items = item_features(DATASET.items, VECTORS, config)
    model.fit_statistics(items, DATASET.train, DATASET.histories)
    return model.to(DEVICE)


def source_on_device(config: ModelConfig) -> BatchSource:
    items = item_features(DATASET.items, VECTORS, config).to(DEVICE)
    return BatchSource(DATASET.train, DATASET.histories, items, DEVICE, config.max_history)


def train_and_score(
    config: ModelConfig,
    training: TrainingConfig,
    loss: Callable[..., torch.Tensor] = ctr_loss,
    n_steps: int = 1,
) -> None:
    """Do what the training loop does up to a validation; fail where the host waits."""
    with FakeCuda() as cuda:
        model, source = model_on_device(config).train(), source_on_device(config)
        optimizers = Optimizers(model, model.parameter_groups(), training)
        n_items = 1 + int(DATASET.items.item_id.max())
        redrawn_I = redrawn_logits(DATASET.train, training.redrawn_share, n_items).to(DEVICE)
        step = TrainStep(
            model,
            lambda model, batch: loss(model, batch, training, redrawn_I),
            optimizers,
            training,
            DEVICE,
            Batch.split,
        )
        meter = LossMeter(1, DEVICE)
        average = WeightAverage(model, power=2.0, rows_per_epoch=n_steps * BATCH_SIZE)
        batches = source.shuffled(BATCH_SIZE, seed=0, epoch=1)
        static = next(batches).clone()  # the host waits once, for the order of the epoch
        with cuda.without_waiting():
            for batch in itertools.islice(batches, n_steps):
                static.copy_from(batch)
                value = step(static, meter.check)
                meter.add(value, len(batch))
                average.advance(len(batch))
            model.eval()
        assert (value.device, value.dtype, value.ndim) == (DEVICE, torch.float32, 0)
        dense = [p for group in optimizers.members[0].param_groups for p in group["params"]]
        assert all(parameter.grad is not None for parameter in dense)

        n_waits = cuda.n_waits
        assert score(model, source, training.precision, batch_size=500).shape == (500,)
        # One copy of the order of rows to the device, and one of the scores to the host.
        assert cuda.n_waits - n_waits == 2


@pytest.mark.parametrize("entry", EACH_PRESET)
def test_fake_cuda_trains_and_scores_every_preset(entry: Entry) -> None:
    model, training = entry.preset.model, entry.preset.training
    training = dataclasses.replace(training, precision="bfloat16", batch_size=BATCH_SIZE)
    if training.in_batch_negatives == "auto":
        training = dataclasses.replace(training, in_batch_negatives=1.0)
    train_and_score(narrow(model), training)


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [
        ("row_adamw", "bfloat16"),
        pytest.param("row_adamw", "float32", marks=pytest.mark.slow),
        ("adamw", "float32"),
        ("adam", "float32"),
    ],
)
def test_fake_cuda_trains_with_pairwise_loss_and_each_optimizer(
    optimizer: str, precision: str
) -> None:
    training = TrainingConfig(
        optimizer=optimizer,
        precision=precision,
        pairwise_weight=0.3,
        in_batch_negatives=0.5,
        embedding_weight_decay=0.1,
    )
    train_and_score(SMALL_MODEL, training, n_steps=2)


@pytest.mark.parametrize("free_bytes", [0, 1 << 40])
def test_fake_cuda_batches_of_an_epoch_have_one_shape_and_do_not_wait(
    free_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows stay in the host's memory if the device has none free; batches are copied from there."""
    fake_cuda.pretend_driver(monkeypatch, free_bytes)
    with FakeCuda() as cuda:
        batches = source_on_device(SMALL_MODEL).shuffled(BATCH_SIZE, seed=0, epoch=1)
        first = next(batches)
        with cuda.without_waiting():
            shapes = {batch.shape for batch in itertools.islice(batches, 500 // BATCH_SIZE - 1)}
    assert shapes == {first.shape}
    assert first.history_T.device == first.user_id_B.device == DEVICE


class _WaitInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return torch.full((BATCH_SIZE,), grad.item(), device=grad.device)


MISTAKES: dict[str, tuple[Callable[[torch.Tensor], Any], type[Exception]]] = {
    "item": (lambda x: x.sum().item(), fake_tensor.DataDependentOutputException),
    "condition": (lambda x: bool(x.isnan().any()), fake_tensor.DataDependentOutputException),
    "nonzero": (lambda x: x.nonzero(), fake_tensor.DynamicOutputShapeException),
    "mask": (lambda x: x[x > 0], fake_tensor.DynamicOutputShapeException),
    "unique": (lambda x: x.unique(), fake_tensor.DynamicOutputShapeException),
    "backward": (_WaitInBackward.apply, fake_tensor.DataDependentOutputException),
    "copy to host": (lambda x: x.cpu(), HostWaitsError),
    "copy from host": (lambda x: x + torch.ones(BATCH_SIZE).to(DEVICE), HostWaitsError),
    "number from host": (lambda x: x + torch.tensor(1.0, device=DEVICE), HostWaitsError),
    "index on host": (lambda x: x[torch.arange(2)], HostWaitsError),
    "two devices": (lambda x: x + torch.ones(BATCH_SIZE), RuntimeError),
    "two devices in a list": (lambda x: torch.cat([x, torch.ones(1)]), RuntimeError),
    "two types": (lambda x: x @ x.double(), RuntimeError),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_fake_cuda_finds_planted_waits_and_mismatches(mistake: str) -> None:
    planted, error = MISTAKES[mistake]

    def loss(
        model: nn.Module, batch: Batch, config: TrainingConfig, _: torch.Tensor
    ) -> torch.Tensor:
        result = planted(model(batch).float())
        return ctr_loss(model, batch, config) + (result.sum() if torch.is_tensor(result) else 0)

    with pytest.raises(error):
        train_and_score(SMALL_MODEL, TrainingConfig(precision="float32"), loss)


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_fake_cuda_backward_computes_the_gradients_that_torch_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    items = random_items()
    model, batch = small_model(name, items).train(), batch_of_train_rows(items)
    grads = []
    for backward in (torch.Tensor.backward, fake_cuda.backward):
        torch.manual_seed(1)
        model.zero_grad()
        backward(ctr_loss(model, batch, TrainingConfig(pairwise_weight=0.3)))
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-6)
