"""The model of the challenge's leaders equals its plain padded form in float64."""

import dataclasses

import pytest
import torch

from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.config import TargetCrossAttentionConfig
from mmctr_pipeline.models.target_cross_attention import TargetCrossAttentionModel
from mmctr_pipeline_tests.models.padded_case import (
    assert_same_logits_and_gradients,
    batch_norm,
    exact_batch,
    exact_model,
    padded_features,
)
from mmctr_pipeline_tests.models.zoo import FEATURES

CONFIG = TargetCrossAttentionConfig(
    features=dataclasses.replace(FEATURES, unknown_rate=0.0),
    n_layers=2,
    n_heads=2,
    feed_forward_dim=6,
    attention_hidden_dims=(8, 4),
    attention_dropout=0.0,
    hidden_dims=(16, 8),
    dropout=0.0,
)
Weights = dict[str, torch.Tensor]


def linear(x: torch.Tensor, weight: Weights, name: str) -> torch.Tensor:
    return x @ weight[f"{name}.weight"].T + weight[f"{name}.bias"]


def rms_norm(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def plain_din(
    target_BD: torch.Tensor, history_BLD: torch.Tensor, mask_BL: torch.Tensor, weight: Weights
) -> torch.Tensor:
    """DIN's attention over concatenated features, without softmax."""
    query = target_BD[:, None].expand_as(history_BLD)
    hidden = torch.cat([query, history_BLD, query - history_BLD, query * history_BLD], dim=-1)
    hidden = torch.relu(linear(hidden, weight, "attention.first"))
    hidden = torch.relu(linear(hidden, weight, "attention.further.0"))
    weight_BL = linear(hidden, weight, "attention.score")[..., 0] * mask_BL
    return (weight_BL[..., None] * history_BLD).sum(1)


def plain_multihead(
    query_BD: torch.Tensor,
    keys_BLD: torch.Tensor,
    mask_BL: torch.Tensor,
    weight: Weights,
    prefix: str,
) -> torch.Tensor:
    """Multi-head attention of one query, one head at a time."""
    projections = weight[f"{prefix}.in_proj_weight"].chunk(3)
    biases = weight[f"{prefix}.in_proj_bias"].chunk(3)
    query_BD = query_BD @ projections[0].T + biases[0]
    key_BLD = keys_BLD @ projections[1].T + biases[1]
    value_BLD = keys_BLD @ projections[2].T + biases[2]
    head_dim = query_BD.shape[1] // CONFIG.n_heads
    heads = []
    for head in range(CONFIG.n_heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        scores_BL = (key_BLD[..., part] * query_BD[:, None, part]).sum(-1) / head_dim**0.5
        exponentials_BL = scores_BL.exp() * mask_BL
        # A row without history would divide by zero.
        total_B1 = exponentials_BL.sum(1, keepdim=True)
        weight_BL = exponentials_BL / torch.where(total_B1 > 0, total_B1, 1.0)
        heads.append((weight_BL[..., None] * value_BLD[..., part]).sum(1))
    return linear(torch.cat(heads, dim=1), weight, f"{prefix}.out_proj")


def plain_logits(model: TargetCrossAttentionModel, batch: Batch) -> torch.Tensor:
    """The model as described, with every padded position going through every layer."""
    target_BD, history_BLD, mask_BL, context_BC = padded_features(model.features, batch)
    weight = dict(model.named_parameters())
    answer_BD = target_BD
    for depth in range(CONFIG.n_layers):
        layer = f"encoder.layers.{depth}"
        normed_BD = rms_norm(answer_BD) * weight[f"{layer}.attention_norm.weight"]
        answer_BD = answer_BD + plain_multihead(
            normed_BD, rms_norm(history_BLD), mask_BL, weight, f"{layer}.attention"
        )
        normed_BD = rms_norm(answer_BD) * weight[f"{layer}.feed_forward.0.weight"]
        hidden_BH = torch.relu(linear(normed_BD, weight, f"{layer}.feed_forward.1"))
        answer_BD = answer_BD + linear(hidden_BH, weight, f"{layer}.feed_forward.4")
    interest_BD = plain_din(target_BD, history_BLD, mask_BL, weight)
    x = torch.cat([context_BC, target_BD, interest_BD, answer_BD], dim=1)
    for number in (0, 4):
        normed = batch_norm(model.tower[number + 1], linear(x, weight, f"tower.{number}"))
        x = torch.relu(normed)
    return linear(x, weight, "tower.8")[:, 0]


@pytest.mark.parametrize("training", [False, True])
def test_logits_and_gradients_equal_the_padded_form(training: bool) -> None:
    model, batch = exact_model(CONFIG).train(training), exact_batch(20)
    assert isinstance(model, TargetCrossAttentionModel)
    assert_same_logits_and_gradients(model, model(batch), plain_logits(model, batch))
