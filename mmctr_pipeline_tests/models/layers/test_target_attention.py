"""Target attention without padding against the plain padded forms in float64."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.models.layers.activations import Activation, Dice
from mmctr_pipeline.models.layers.ragged import RaggedAttentionPooling
from mmctr_pipeline.models.layers.target_attention import (
    ReluTargetAttention,
    TargetAttention,
)
from mmctr_pipeline_tests.models.layers.ragged_case import (
    DIM,
    LENGTHS,
    N_REAL,
    N_ROWS,
    SPARE,
    assert_same,
    masked_softmax,
    offsets_of,
    padded,
    random_keep,
    random_values,
    result_and_gradients,
)

OFFSETS = offsets_of(LENGTHS)


def random_queries() -> torch.Tensor:
    return torch.randn(N_ROWS, DIM, dtype=torch.float64, requires_grad=True)


def randomised(layer: nn.Module) -> nn.Module:
    """Return `layer` in float64 with no parameter at zero."""
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def plain_target_attention(
    attention: TargetAttention,
    query_BD: torch.Tensor,
    keys_BLD: torch.Tensor,
    mask_BL: torch.Tensor,
) -> torch.Tensor:
    """DIN's attention as the paper draws it, on concatenated features."""
    query_BLD = query_BD.unsqueeze(1).expand_as(keys_BLD)
    hidden = torch.cat([query_BLD, keys_BLD, query_BLD - keys_BLD, query_BLD * keys_BLD], dim=-1)
    layers = [attention.first, *attention.further]
    for linear, activate in zip(layers, attention.activations, strict=True):
        hidden = functional.linear(hidden, linear.weight, linear.bias)
        if isinstance(activate, Dice):
            kept = hidden[mask_BL]
            normed = (hidden - kept.mean(0)) / (kept.var(0, correction=0) + 1e-9).sqrt()
            gate = torch.sigmoid(normed)
            hidden = hidden * (gate + (1 - gate) * activate.alpha_D)
        else:
            hidden = activate(hidden.flatten(0, 1)).view_as(hidden)
    scores_BL = functional.linear(hidden, attention.score.weight, attention.score.bias)[..., 0]
    if attention_is_softmax(attention):
        weight_BL = masked_softmax(scores_BL, mask_BL)
    else:
        weight_BL = torch.where(mask_BL, scores_BL, 0.0)
    return (weight_BL[..., None] * keys_BLD).sum(1)


def attention_is_softmax(attention: TargetAttention) -> bool:
    """Whether the weights of equal keys add up to one."""
    ones_TD = torch.ones(4, DIM, dtype=torch.float64)
    summed = copy.deepcopy(attention)(ones_TD[:1], ones_TD, torch.tensor([0, 4]))
    return bool(torch.allclose(summed, ones_TD[:1]))


@pytest.mark.parametrize("spare", [0, SPARE])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize(
    ("activation", "hidden_dims"), [("dice", (5, 4)), ("prelu", (5,)), ("sigmoid", (5, 4, 3))]
)
def test_target_attention_equals_the_padded_form(
    activation: Activation, hidden_dims: tuple[int, ...], softmax: bool, spare: int
) -> None:
    torch.manual_seed(0)
    attention = randomised(TargetAttention(DIM, hidden_dims, activation, softmax=softmax))
    query_BD, keys_TD, keep_T = random_queries(), random_values(spare), random_keep(spare)
    leaves = [query_BD, keys_TD, *attention.parameters()]
    if softmax:  # which takes no notice of the bias of the score
        leaves = [leaf for leaf in leaves if leaf is not attention.score.bias]
    ours = result_and_gradients(lambda: attention(query_BD, keys_TD, OFFSETS, keep_T), leaves)
    theirs = result_and_gradients(
        lambda: plain_target_attention(attention, query_BD, padded(keys_TD), padded(keep_T)), leaves
    )
    assert_same(ours, theirs, atol=1e-9)
    assert torch.count_nonzero(ours[0][[1, 3, 5]]) == 0
    assert torch.count_nonzero(ours[2][N_REAL:]) == 0


def test_target_attention_drops_hidden_units_in_training_alone() -> None:
    torch.manual_seed(1)
    attention = randomised(TargetAttention(DIM, (8,), "relu", dropout=0.5))
    query_BD, keys_TD = random_queries(), random_values(0)
    first, second = (attention(query_BD, keys_TD, OFFSETS) for _ in range(2))
    assert not torch.equal(first, second)
    attention.eval()
    first, second = (attention(query_BD, keys_TD, OFFSETS) for _ in range(2))
    assert torch.equal(first, second)


def test_target_attention_without_hidden_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a hidden layer"):
        TargetAttention(DIM, ())


@pytest.mark.parametrize("spare", [0, SPARE])
@pytest.mark.parametrize("attention_dim", [None, 5])
def test_relu_target_attention_equals_the_padded_form(
    attention_dim: int | None, spare: int
) -> None:
    torch.manual_seed(2)
    attention = randomised(ReluTargetAttention(DIM, attention_dim))
    target_BD, history_TD, keep_T = random_queries(), random_values(spare), random_keep(spare)

    def plain() -> torch.Tensor:
        query_BA = target_BD @ attention.query.weight.T
        key_BLA = padded(history_TD) @ attention.key.weight.T
        value_BLA = padded(history_TD) @ attention.value.weight.T
        scale = math.sqrt(attention_dim or 2 * DIM)
        weight_BL = torch.relu((key_BLA * query_BA.unsqueeze(1)).sum(-1) / scale) * padded(keep_T)
        return (weight_BL[..., None] * value_BLA).sum(1) @ attention.output.weight.T

    leaves = [target_BD, history_TD, *attention.parameters()]
    ours = result_and_gradients(lambda: attention(target_BD, history_TD, OFFSETS, keep_T), leaves)
    assert_same(ours, result_and_gradients(plain, leaves))
    assert torch.count_nonzero(ours[0][[1, 3, 5]]) == 0
    assert torch.count_nonzero(ours[2][N_REAL:]) == 0


Run = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def every_layer() -> list[nn.Module]:
    torch.manual_seed(6)
    return [
        RaggedAttentionPooling(DIM, 4),
        *(TargetAttention(DIM, (8,), name) for name in ("dice", "prelu", "relu", "sigmoid")),
        TargetAttention(DIM, (8,), "relu", softmax=True),
        ReluTargetAttention(DIM),
    ]


def run_of(layer: nn.Module, query_BD: torch.Tensor) -> Run:
    """Return the layer as a function of positions, offsets and mask."""
    if isinstance(layer, RaggedAttentionPooling):
        return layer
    return lambda values_TD, offsets, keep_T: layer(query_BD, values_TD, offsets, keep_T)


@pytest.mark.parametrize("layer", every_layer(), ids=lambda layer: type(layer).__name__)
def test_what_is_kept_counts_and_nothing_else(layer: nn.Module) -> None:
    torch.manual_seed(7)
    run = run_of(layer.double(), random_queries())
    values_TD, keep_T = random_values(SPARE).detach(), random_keep(SPARE)
    result_BD = run(values_TD, OFFSETS, keep_T)
    masked_TD = torch.where(
        keep_T[:, None] & (torch.arange(len(keep_T)) < N_REAL)[:, None], values_TD, 50.0
    )
    assert torch.equal(run(masked_TD, OFFSETS, keep_T), result_BD)
    keeping_B = padded(keep_T).any(1)
    moved_BD = run(torch.where(keep_T[:, None], -2 * values_TD, values_TD), OFFSETS, keep_T)
    assert bool((moved_BD != result_BD).any(1)[keeping_B].all())
    assert torch.equal(moved_BD[~keeping_B], result_BD[~keeping_B])


@pytest.mark.parametrize("layer", every_layer(), ids=lambda layer: type(layer).__name__)
def test_without_a_mask_every_position_counts_but_the_spare_ones(layer: nn.Module) -> None:
    torch.manual_seed(9)
    run = run_of(layer.double(), random_queries())
    values_TD = random_values(SPARE).detach()
    all_T = torch.ones(N_REAL, dtype=torch.bool)
    assert torch.allclose(
        run(values_TD, OFFSETS, None), run(values_TD[:N_REAL], OFFSETS, all_T), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("layer", every_layer(), ids=lambda layer: type(layer).__name__)
def test_float32_and_bfloat16_autocast_stay_near_float64(layer: nn.Module) -> None:
    torch.manual_seed(8)
    query_BD, values_TD, keep_T = random_queries(), random_values(0), random_keep(0)
    exact = copy.deepcopy(layer).double()
    leaves = [values_TD, *exact.parameters()]
    expected = result_and_gradients(
        lambda: run_of(exact, query_BD)(values_TD, OFFSETS, keep_T), leaves
    )
    layer.float()
    values_TD = values_TD.detach().float().requires_grad_()
    run = run_of(layer, query_BD.detach().float())
    for enabled, bound in ((False, 1e-5), (True, 0.05)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            got = result_and_gradients(
                lambda: run(values_TD, OFFSETS, keep_T), [values_TD, *layer.parameters()]
            )
        assert got[1].dtype == torch.float32
        for ours, exactly in zip(got, expected, strict=True):
            scale = float(exactly.abs().max()) + 0.1
            assert float((ours - exactly).abs().max()) < bound * scale
