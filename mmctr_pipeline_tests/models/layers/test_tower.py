"""The tower of hidden layers."""

import torch
from torch import nn

from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.models.layers.exact import ExactLinear
from mmctr_pipeline.models.layers.tower import tower


def test_tower_is_linear_norm_relu_dropout_and_a_last_linear() -> None:
    kinds = [type(layer) for layer in tower(9, (8, 4), 0.3)]
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU, Dropout]
    assert kinds == [*hidden, *hidden, ExactLinear]


def test_logits_are_as_fine_under_autocast_as_in_float32() -> None:
    torch.manual_seed(0)
    layers = tower(9, (8, 4), 0.0).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = layers(torch.randn(4000, 9))
    assert logits.dtype == torch.float32
    # bfloat16 has 128 values between a power of two and the next.
    assert len(logits.unique()) > 3000
