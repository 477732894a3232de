"""The bilinear interaction against torch's own in float64."""

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.layers.bilinear import BilinearInteraction

DIM = 6


@pytest.mark.parametrize("n_rows", [1, 5, 128, 300])
def test_bilinear_equals_torchs_own_in_result_and_gradients(n_rows: int) -> None:
    torch.manual_seed(1)
    ours = BilinearInteraction(5, 7, 3).double()
    theirs = nn.Bilinear(5, 7, 3).double()
    theirs.load_state_dict(ours.state_dict())
    toward = torch.randn(n_rows, 3, dtype=torch.float64)
    results = []
    for layer in (ours, theirs):
        torch.manual_seed(2)
        x = torch.randn(n_rows, 5, dtype=torch.float64, requires_grad=True)
        y = torch.randn(n_rows, 7, dtype=torch.float64, requires_grad=True)
        out = layer(x, y)
        (out * toward).sum().backward()
        results.append([out, x.grad, y.grad, layer.weight.grad, layer.bias.grad])
    for our, their in zip(*results, strict=True):
        assert torch.allclose(our, their, atol=1e-11, rtol=0)


def test_bilinear_keeps_torchs_initialisation() -> None:
    torch.manual_seed(3)
    ours = BilinearInteraction(64, 64, 64)
    torch.manual_seed(3)
    theirs = nn.Bilinear(64, 64, 64)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
