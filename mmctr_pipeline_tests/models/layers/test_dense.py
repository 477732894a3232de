"""Some products stay exact under autocast, Dice equals its formula, towers have their layers."""

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.config import Activation
from mmctr_pipeline.models.layers.dense import (
    Dice,
    Float32Linear,
    activation,
    at_least_float32,
    exact_dots,
    hidden_layers,
    tower,
)
from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline_tests.models.layers.ragged_case import assert_same, result_and_gradients

DIM = 5


def test_exact_products_are_the_same_with_and_without_autocast() -> None:
    torch.manual_seed(0)
    layer, x_ND, y_ND = Float32Linear(8, 3), torch.randn(50, 8), torch.randn(50, 8)
    linear_NO, dots_N = layer(x_ND), exact_dots(x_ND, y_ND)
    torch.testing.assert_close(dots_N, (x_ND * y_ND).sum(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x_ND), linear_NO)
        assert torch.equal(exact_dots(x_ND, y_ND), dots_N)
        # The product of torch itself is rounded.
        assert torch.linalg.vecdot(x_ND, y_ND).dtype == torch.bfloat16


def test_16_bit_formats_become_float32_and_longer_formats_stay() -> None:
    for short in (torch.bfloat16, torch.float16, torch.float32):
        assert at_least_float32(torch.ones(2, dtype=short)).dtype == torch.float32
    assert at_least_float32(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def plain_dice(dice: Dice, norm: nn.BatchNorm1d, x_ND: torch.Tensor) -> torch.Tensor:
    gate_ND = torch.sigmoid(norm(x_ND))
    return gate_ND * x_ND + (1 - gate_ND) * dice.alpha_D * x_ND


@pytest.mark.parametrize("masked", [False, True])
def test_dice_equals_its_formula_on_the_kept_vectors(masked: bool) -> None:
    torch.manual_seed(0)
    dice = Dice(DIM).double()
    nn.init.normal_(dice.alpha_D)
    norm = nn.BatchNorm1d(DIM, eps=1e-9, momentum=0.01, affine=False).double()
    x_ND = torch.randn(40, DIM, dtype=torch.float64) * 3 + 1
    keep_N = torch.rand(40) > 0.3
    x_ND[~keep_N] *= 100 if masked else 1
    x_ND.requires_grad_()
    leaves = [x_ND, dice.alpha_D]
    rows = keep_N if masked else torch.ones(40, dtype=torch.bool)
    for _ in range(3):
        ours = result_and_gradients(lambda: dice(x_ND, keep_N if masked else None)[rows], leaves)
        assert_same(ours, result_and_gradients(lambda: plain_dice(dice, norm, x_ND[rows]), leaves))
    assert torch.allclose(dice.running_mean_D, norm.running_mean)
    assert torch.allclose(dice.running_variance_D, norm.running_var)

    dice.eval()
    norm.eval()
    ours = result_and_gradients(lambda: dice(x_ND), leaves)
    assert_same(ours, result_and_gradients(lambda: plain_dice(dice, norm, x_ND), leaves))


@pytest.mark.parametrize("n_kept", [0, 1])
def test_dice_stays_finite_if_a_batch_has_no_variance(n_kept: int) -> None:
    dice = Dice(DIM)
    dice.running_mean_D.fill_(5.0)
    x_ND = torch.randn(4, DIM, requires_grad=True)
    dice(x_ND, torch.arange(4) < n_kept).sum().backward()
    assert bool(torch.isfinite(x_ND.grad).all())
    assert torch.equal(dice.running_variance_D, torch.ones(DIM))
    assert torch.equal(dice.running_mean_D, torch.full((DIM,), 5.0)) == (n_kept == 0)


def test_dice_computes_its_statistics_in_float32_under_autocast() -> None:
    x_ND = torch.randn(300, DIM) * 0.01 + 4
    with torch.autocast("cpu", torch.bfloat16):
        gated_ND = Dice(DIM)(x_ND.bfloat16())
    assert torch.equal(gated_ND, Dice(DIM)(x_ND.bfloat16().float()))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("dice", Dice), ("prelu", nn.PReLU), ("relu", nn.ReLU), ("sigmoid", nn.Sigmoid)],
)
def test_each_name_gives_its_activation(name: Activation, kind: type[nn.Module]) -> None:
    assert type(activation(name, DIM)) is kind
    for parameter in activation(name, DIM).parameters():
        assert parameter.shape == (DIM,)


def test_an_unknown_activation_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(ValueError, match="'tanh'; known: dice, prelu, relu, sigmoid"):
        activation("tanh", DIM)


def test_tower_is_linear_norm_relu_dropout_and_a_final_linear() -> None:
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU, Dropout]
    assert [type(layer) for layer in tower(9, (8, 4), 0.3)] == [*hidden, *hidden, Float32Linear]
    assert [type(layer) for layer in tower(9, (), 0.3)] == [Float32Linear]
    without_norm = [type(layer) for layer in hidden_layers(9, (8,), 0.3)]
    assert without_norm == [nn.Linear, nn.ReLU, Dropout]


def test_logits_keep_the_digits_of_float32_under_autocast() -> None:
    torch.manual_seed(0)
    layers = tower(9, (8, 4), 0.0).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = layers(torch.randn(4000, 9))
    assert logits.dtype == torch.float32
    # bfloat16 has 128 values between a power of two and the next, so it would merge most logits.
    assert len(logits.unique()) > 3000
