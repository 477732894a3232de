"""Initial weights follow FuxiCTR: small normal tables, Xavier-normal layers, zero biases."""

import math

import torch
from torch import nn

from mmctr_pipeline.models.base import initialise
from mmctr_pipeline.models.layers.dense import Float32Linear
from mmctr_pipeline.models.layers.embedding import EmbeddingTable


def test_tables_start_with_small_rows_and_zero_padding() -> None:
    torch.manual_seed(0)
    module = nn.ModuleList([EmbeddingTable(500, 40), nn.Embedding(500, 40)])
    initialise(module)
    padded, plain = module[0].weight.detach(), module[1].weight.detach()
    assert not padded[0].any()
    assert plain[0].any()
    for weight in (padded[1:], plain):
        assert 0.97e-4 < float(weight.std()) < 1.03e-4
        assert abs(float(weight.mean())) < 3e-6


def test_linear_layers_at_any_depth_start_xavier_normal_with_zero_biases() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(300, 100), nn.Sequential(Float32Linear(100, 300), nn.Linear(200, 200, bias=False))
    )
    initialise(module)
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == 3
    for layer in layers:
        expected = math.sqrt(2 / (layer.in_features + layer.out_features))
        assert 0.97 * expected < float(layer.weight.detach().std()) < 1.03 * expected
        # Normal, not uniform: a uniform weight never exceeds sqrt(3) standard deviations.
        assert float(layer.weight.detach().abs().max()) > 3 * expected
        assert layer.bias is None or not layer.bias.any()


def test_batch_norm_and_prelu_keep_their_default_initialisation() -> None:
    norm, slope = nn.BatchNorm1d(4), nn.PReLU(4)
    initialise(nn.Sequential(norm, slope))
    assert torch.equal(norm.weight, torch.ones(4))
    assert torch.equal(slope.weight, torch.full((4,), 0.25))
