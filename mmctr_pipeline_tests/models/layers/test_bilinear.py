"""The bilinear interaction equals `nn.Bilinear` in float64, and is close under autocast."""

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.layers.bilinear import BilinearInteraction


@pytest.mark.parametrize("n_rows", [0, 1, 5, 512, 513, 1300])
def test_results_and_gradients_equal_those_of_nn_bilinear(n_rows: int) -> None:
    torch.manual_seed(1)
    ours = BilinearInteraction(5, 7, 3).double()
    theirs = nn.Bilinear(5, 7, 3).double()
    theirs.load_state_dict(ours.state_dict())
    direction = torch.randn(n_rows, 3, dtype=torch.float64)
    results = []
    for layer in (ours, theirs):
        torch.manual_seed(2)
        x = torch.randn(n_rows, 5, dtype=torch.float64, requires_grad=True)
        y = torch.randn(n_rows, 7, dtype=torch.float64, requires_grad=True)
        out = layer(x, y)
        (out * direction).sum().backward()
        results.append([out, x.grad, y.grad, layer.weight.grad, layer.bias.grad])
    for our, their in zip(*results, strict=True):
        assert torch.allclose(our, their, atol=1e-11, rtol=0)


def test_bfloat16_under_autocast_is_close_to_float32() -> None:
    torch.manual_seed(4)
    layer = BilinearInteraction(32, 32, 16)
    direction = torch.randn(700, 16)
    results = []
    for enabled in (False, True):
        torch.manual_seed(5)
        x, y = (torch.randn(700, 32, requires_grad=True) for _ in range(2))
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = layer(x, y)
        assert out.dtype == (torch.bfloat16 if enabled else torch.float32)
        (out.float() * direction).sum().backward()
        results.append([out.float(), x.grad, y.grad, layer.weight.grad, layer.bias.grad])
    for full, half in zip(*results, strict=True):
        assert half.dtype == torch.float32
        assert 0 < (half - full).norm() / full.norm() < 0.01


def test_inputs_need_not_require_a_gradient() -> None:
    torch.manual_seed(6)
    layer, theirs = BilinearInteraction(3, 4, 2), nn.Bilinear(3, 4, 2)
    theirs.load_state_dict(layer.state_dict())
    x, y = torch.randn(5, 3), torch.randn(5, 4)
    for module in (layer, theirs):
        module(x, y).sum().backward()
    assert torch.allclose(layer.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        assert not layer(x, y).requires_grad


def test_initial_weights_are_those_of_nn_bilinear() -> None:
    torch.manual_seed(3)
    ours = BilinearInteraction(64, 64, 64)
    torch.manual_seed(3)
    theirs = nn.Bilinear(64, 64, 64)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("n_left", [3, 4])
def test_sharing_the_left_side_between_rows_does_not_change_the_result(n_left: int) -> None:
    torch.manual_seed(0)
    layer = BilinearInteraction(6, 4, 5).double()
    left, right = torch.randn(n_left, 6).double(), torch.randn(7, 4).double()
    row_B = torch.tensor([0, 0, 0, 1, 1, 2, 0])
    assert torch.allclose(layer(left, right, row_B), layer(left[row_B], right), rtol=1e-12)
