"""Attention without padding equals its plain padded form in float64."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.models.config import Activation, DinAttentionSettings
from mmctr_pipeline.models.layers.attention import (
    AttentionPooling,
    ReluTargetAttention,
    TargetAttention,
)
from mmctr_pipeline.models.layers.dense import Dice
from mmctr_pipeline.models.layers.segments import Segments
from mmctr_pipeline_tests.models.layers.ragged_case import (
    DIM,
    N_REAL,
    N_ROWS,
    SPARE,
    assert_same,
    masked_softmax,
    padded,
    random_keep,
    random_values,
    result_and_gradients,
    segments_of,
)

MASK_BL = padded(torch.ones(N_REAL, dtype=torch.bool))


def random_queries() -> torch.Tensor:
    return torch.randn(N_ROWS, DIM, dtype=torch.float64, requires_grad=True)


def randomised(layer: nn.Module) -> nn.Module:
    """Return `layer` in float64 with no parameter at zero."""
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def padded_pooling(
    pooling: AttentionPooling, values_TD: torch.Tensor, keep_T: torch.Tensor
) -> torch.Tensor:
    """Recipe A's attention pooling in its usual form: padding, mask, softmax."""
    padded_BLD = padded(values_TD)
    hidden = torch.tanh(padded_BLD @ pooling.hidden.weight.T + pooling.hidden.bias)
    scores_BL = (hidden @ pooling.score.weight.T + pooling.score.bias)[..., 0]
    return (masked_softmax(scores_BL, padded(keep_T))[..., None] * padded_BLD).sum(1)


@pytest.mark.parametrize("spare", [0, SPARE])
def test_pooling_equals_the_padded_form(spare: int) -> None:
    torch.manual_seed(0)
    pooling = AttentionPooling(DIM, 4).double()
    values_TD, keep_T = random_values(spare), random_keep(spare)
    # The softmax ignores the score's bias, whose gradient is therefore zero.
    leaves = [values_TD, *pooling.hidden.parameters(), pooling.score.weight]
    ours = result_and_gradients(lambda: pooling(values_TD, segments_of(values_TD), keep_T), leaves)
    theirs = result_and_gradients(lambda: padded_pooling(pooling, values_TD, keep_T), leaves)
    assert_same(ours, theirs)
    assert torch.count_nonzero(ours[0][[1, 3, 5]]) == 0
    assert torch.count_nonzero(ours[1][N_REAL:]) == 0


def test_a_batch_of_empty_histories_gives_zeros_and_finite_gradients() -> None:
    pooling = AttentionPooling(DIM, 4)
    values_TD = torch.zeros(0, DIM, requires_grad=True)
    segments = Segments.from_offsets(torch.zeros(4, dtype=torch.int64), 0)
    pooled_BD = pooling(values_TD, segments, torch.zeros(0, dtype=torch.bool))
    pooled_BD.sum().backward()
    assert torch.equal(pooled_BD, torch.zeros(3, DIM))
    assert all(bool(torch.isfinite(p.grad).all()) for p in pooling.parameters())


def test_pooling_reads_only_the_kept_positions() -> None:
    torch.manual_seed(7)
    pooling = AttentionPooling(DIM, 4).double()
    values_TD, keep_T = random_values(SPARE).detach(), random_keep(SPARE)
    result_BD = pooling(values_TD, segments_of(values_TD), keep_T)
    is_read_T = keep_T & (torch.arange(len(keep_T)) < N_REAL)
    masked_TD = torch.where(is_read_T[:, None], values_TD, 50.0)
    assert torch.equal(pooling(masked_TD, segments_of(masked_TD), keep_T), result_BD)
    keeping_B = padded(keep_T).any(1)
    changed_TD = torch.where(keep_T[:, None], -2 * values_TD, values_TD)
    changed_BD = pooling(changed_TD, segments_of(values_TD), keep_T)
    assert bool((changed_BD != result_BD).any(1)[keeping_B].all())
    assert torch.equal(changed_BD[~keeping_B], result_BD[~keeping_B])


def plain_target_attention(
    attention: TargetAttention, query_BD: torch.Tensor, keys_BLD: torch.Tensor
) -> torch.Tensor:
    """DIN's attention as in the paper, on concatenated features."""
    query_BLD = query_BD.unsqueeze(1).expand_as(keys_BLD)
    hidden = torch.cat([query_BLD, keys_BLD, query_BLD - keys_BLD, query_BLD * keys_BLD], dim=-1)
    layers = [attention.first, *attention.further]
    for linear, activate in zip(layers, attention.activations, strict=True):
        hidden = functional.linear(hidden, linear.weight, linear.bias)
        if isinstance(activate, Dice):
            real = hidden[MASK_BL]
            normed = (hidden - real.mean(0)) / (real.var(0, correction=0) + 1e-9).sqrt()
            gate = torch.sigmoid(normed)
            hidden = hidden * (gate + (1 - gate) * activate.alpha_D)
        else:
            hidden = activate(hidden.flatten(0, 1)).view_as(hidden)
    scores_BL = functional.linear(hidden, attention.score.weight, attention.score.bias)[..., 0]
    if weights_sum_to_one(attention):
        weight_BL = masked_softmax(scores_BL, MASK_BL)
    else:
        weight_BL = torch.where(MASK_BL, scores_BL, 0.0)
    return (weight_BL[..., None] * keys_BLD).sum(1)


def target_attention(
    hidden_dims: tuple[int, ...],
    activation: Activation,
    softmax: bool = False,
    dropout: float = 0.0,
) -> TargetAttention:
    config = DinAttentionSettings(
        attention_hidden_dims=hidden_dims,
        attention_activation=activation,
        attention_softmax=softmax,
        attention_dropout=dropout,
    )
    return TargetAttention(DIM, config)


def weights_sum_to_one(attention: TargetAttention) -> bool:
    ones_TD = torch.ones(4, DIM, dtype=torch.float64)
    summed = copy.deepcopy(attention)(
        ones_TD[:1], ones_TD, Segments.from_offsets(torch.tensor([0, 4]), 4)
    )
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
    attention = randomised(target_attention(hidden_dims, activation, softmax))
    query_BD, keys_TD = random_queries(), random_values(spare)
    leaves = [query_BD, keys_TD, *attention.parameters()]
    if softmax:  # softmax ignores the bias of the score
        leaves = [leaf for leaf in leaves if leaf is not attention.score.bias]
    ours = result_and_gradients(lambda: attention(query_BD, keys_TD, segments_of(keys_TD)), leaves)
    theirs = result_and_gradients(
        lambda: plain_target_attention(attention, query_BD, padded(keys_TD)), leaves
    )
    assert_same(ours, theirs, atol=1e-9)
    assert torch.count_nonzero(ours[0][[1, 5]]) == 0
    assert torch.count_nonzero(ours[2][N_REAL:]) == 0


def test_target_attention_drops_hidden_units_in_training_only() -> None:
    torch.manual_seed(1)
    attention = randomised(target_attention((8,), "relu", dropout=0.5))
    query_BD, keys_TD = random_queries(), random_values(0)
    first, second = (attention(query_BD, keys_TD, segments_of(keys_TD)) for _ in range(2))
    assert not torch.equal(first, second)
    attention.eval()
    first, second = (attention(query_BD, keys_TD, segments_of(keys_TD)) for _ in range(2))
    assert torch.equal(first, second)


def test_target_attention_without_hidden_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a hidden layer"):
        target_attention((), "relu")


@pytest.mark.parametrize("spare", [0, SPARE])
def test_relu_target_attention_equals_the_padded_form(spare: int) -> None:
    torch.manual_seed(2)
    attention = randomised(ReluTargetAttention(DIM))
    target_BD, history_TD = random_queries(), random_values(spare)

    def plain() -> torch.Tensor:
        query_BA = target_BD @ attention.query.weight.T
        key_BLA = padded(history_TD) @ attention.key.weight.T
        value_BLA = padded(history_TD) @ attention.value.weight.T
        scores_BL = (key_BLA * query_BA.unsqueeze(1)).sum(-1) / math.sqrt(2 * DIM)
        weight_BL = torch.relu(scores_BL) * MASK_BL
        return (weight_BL[..., None] * value_BLA).sum(1) @ attention.output.weight.T

    leaves = [target_BD, history_TD, *attention.parameters()]
    ours = result_and_gradients(
        lambda: attention(target_BD, history_TD, segments_of(history_TD)), leaves
    )
    assert_same(ours, result_and_gradients(plain, leaves))
    assert torch.count_nonzero(ours[0][[1, 5]]) == 0
    assert torch.count_nonzero(ours[2][N_REAL:]) == 0


Run = Callable[[torch.Tensor], torch.Tensor]


def every_layer() -> list[nn.Module]:
    torch.manual_seed(6)
    activations: tuple[Activation, ...] = ("dice", "prelu", "relu", "sigmoid")
    return [
        AttentionPooling(DIM, 4),
        *(target_attention((8,), name) for name in activations),
        target_attention((8,), "relu", softmax=True),
        ReluTargetAttention(DIM),
    ]


each_layer = pytest.mark.parametrize("layer", every_layer(), ids=lambda layer: type(layer).__name__)


def bind_layer(layer: nn.Module, query_BD: torch.Tensor) -> Run:
    """Return the layer as a function of the history vectors alone."""
    if isinstance(layer, AttentionPooling):
        return lambda values_TD: layer(
            values_TD, segments_of(values_TD), torch.ones(len(values_TD), dtype=torch.bool)
        )
    return lambda values_TD: layer(query_BD, values_TD, segments_of(values_TD))


@each_layer
def test_changing_real_positions_changes_results_and_spare_ones_do_not_count(
    layer: nn.Module,
) -> None:
    torch.manual_seed(9)
    run = bind_layer(layer.double(), random_queries())
    values_TD = random_values(SPARE).detach()
    result_BD = run(values_TD)
    assert torch.allclose(result_BD, run(values_TD[:N_REAL]), atol=1e-12, rtol=0)
    other_spare_TD = torch.cat([values_TD[:N_REAL], -values_TD[N_REAL:]])
    assert torch.equal(run(other_spare_TD), result_BD)
    has_history_B = MASK_BL.any(1)
    changed_BD = run(-2 * values_TD)
    assert bool((changed_BD != result_BD).any(1)[has_history_B].all())
    assert torch.equal(changed_BD[~has_history_B], result_BD[~has_history_B])


@each_layer
def test_float32_and_bfloat16_autocast_stay_near_float64(layer: nn.Module) -> None:
    torch.manual_seed(8)
    query_BD, values_TD = random_queries(), random_values(0)
    exact = copy.deepcopy(layer).double()
    leaves = [values_TD, *exact.parameters()]
    expected = result_and_gradients(lambda: bind_layer(exact, query_BD)(values_TD), leaves)
    layer.float()
    values_TD = values_TD.detach().float().requires_grad_()
    run = bind_layer(layer, query_BD.detach().float())
    for enabled, bound in ((False, 1e-5), (True, 0.05)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            actual = result_and_gradients(lambda: run(values_TD), [values_TD, *layer.parameters()])
        assert actual[1].dtype == torch.float32
        for ours, float64 in zip(actual, expected, strict=True):
            scale = float(float64.abs().max()) + 0.1
            assert float((ours - float64).abs().max()) < bound * scale
