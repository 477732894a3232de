"""A model in float64, a batch for it, and the plain padded form of the model's input."""

import dataclasses

import torch
from torch.nn import functional

from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.models.features import FeatureEmbedding
from mmctr_pipeline_tests.models.zoo import SPEC, random_batch, random_items, random_train_rows

SPARE = 5
"""Number of positions of `history_T` after the last history."""


def exact_model(config: ModelConfig) -> CtrModel:
    """Return the model in float64, with no weight or statistic at its initial value."""
    torch.manual_seed(0)
    model = build_model(config, SPEC)
    model.fit_statistics(random_items(), *random_train_rows())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.double()


def exact_batch(n_rows: int) -> Batch:
    """Return a batch with float64 vectors, some empty histories, and items at spare positions."""
    torch.manual_seed(1)
    items = random_items()
    vectors = {
        field.name: value.double()
        for field in dataclasses.fields(items)
        if (value := getattr(items, field.name)).is_floating_point()
    }
    batch = random_batch(n_rows, dataclasses.replace(items, **vectors))
    garbage = torch.randint(1, SPEC.n_items, (SPARE,))
    return dataclasses.replace(batch, history_T=torch.cat([batch.history_T, garbage]))


def padded_features(features: FeatureEmbedding, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Return targets, padded histories, which positions are real, and contexts.

    The shapes are `(B, D)`, `(B, L, D)`, `(B, L)` and `(B, C)`.
    """
    output = features(batch)
    lengths = batch.history_offsets.diff().tolist()
    histories = output.history_TD[: sum(lengths)].split(lengths)
    longest = max(lengths)
    history_BLD = torch.stack(
        [functional.pad(history, (0, 0, 0, longest - len(history))) for history in histories]
    )
    mask_BL = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return output.item_BD, history_BLD, mask_BL, output.context_BC


def batch_norm(layer: torch.nn.BatchNorm1d, x_BD: torch.Tensor) -> torch.Tensor:
    """BatchNorm by hand: the batch's statistics in training, the running ones in evaluation."""
    mean_D, variance_D = x_BD.mean(0), x_BD.var(0, correction=0)
    if not layer.training:
        mean_D, variance_D = layer.running_mean, layer.running_var
    return (x_BD - mean_D) / (variance_D + 1e-5).sqrt() * layer.weight + layer.bias


def assert_same_logits_and_gradients(
    model: CtrModel, ours_B: torch.Tensor, theirs_B: torch.Tensor
) -> None:
    """Assert that two computations agree on the logits and on every parameter's gradient."""
    torch.testing.assert_close(ours_B, theirs_B, atol=1e-9, rtol=1e-9)
    assert ours_B.std() > 0.01
    parameters = dict(model.named_parameters())
    direction_B = torch.randn(len(ours_B), dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((logits_B * direction_B).sum(), list(parameters.values()))
        for logits_B in (ours_B, theirs_B)
    )
    for name, our, their in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(our, their, atol=1e-8, rtol=1e-8, msg=name)
