"""The target-query encoder equals torch's attention on each row alone."""

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.config import FeatureConfig, TargetCrossAttentionConfig
from mmctr_pipeline.models.layers.target_query import (
    QueryAttention,
    TargetQueryEncoder,
    TargetQueryLayer,
)
from mmctr_pipeline_tests.models.layers.ragged_case import (
    DIM,
    LENGTHS,
    N_ROWS,
    SPARE,
    assert_same,
    padded,
    random_keep,
    random_values,
    result_and_gradients,
    segments_of,
)


def make_encoder(
    max_history: int = max(LENGTHS), dropout: float = 0.0, n_heads: int = 2
) -> TargetQueryEncoder:
    config = TargetCrossAttentionConfig(
        features=FeatureConfig(max_history=max_history),
        n_layers=2,
        n_heads=n_heads,
        feed_forward_dim=5,
        attention_dropout=dropout,
    )
    encoder = TargetQueryEncoder(DIM, config)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder.double()


def random_targets() -> torch.Tensor:
    return torch.randn(N_ROWS, DIM, dtype=torch.float64, requires_grad=True)


def plain(
    encoder: TargetQueryEncoder, target_BD: torch.Tensor, history_TD: torch.Tensor, newest: int
) -> torch.Tensor:
    """Compute each row alone, with torch's attention for rows that have a history."""
    histories = history_TD[: sum(LENGTHS)].split(LENGTHS)
    rows = []
    for t, history in zip(target_BD.split(1), histories, strict=True):
        keys = history[-newest:] if len(history) else history
        keys = keys / (keys.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        for layer in encoder.layers:
            theirs = nn.MultiheadAttention(DIM, 2).double()
            weights = dict(layer.attention.named_parameters())
            query = nn.functional.rms_norm(t, (DIM,), layer.attention_norm.weight, 1e-6)
            answer = layer.attention.out_proj.bias
            if len(keys):
                answer, _ = torch.func.functional_call(theirs, weights, (query, keys, keys))
            t = t + answer
            norm, first, _, _, second = layer.feed_forward
            normed = nn.functional.rms_norm(t, (DIM,), norm.weight, 1e-6)
            t = t + second(torch.relu(first(normed)))
        rows.append(t)
    return torch.cat(rows)


@pytest.mark.parametrize("spare", [0, SPARE])
@pytest.mark.parametrize("newest", [100, 7, 4, 2])
def test_the_encoder_equals_the_plain_form_of_each_row(newest: int, spare: int) -> None:
    torch.manual_seed(0)
    encoder, target_BD, history_TD = make_encoder(newest), random_targets(), random_values(spare)
    leaves = [target_BD, history_TD, *encoder.parameters()]
    ours = result_and_gradients(
        lambda: encoder(target_BD, history_TD, segments_of(history_TD)), leaves
    )
    theirs = result_and_gradients(lambda: plain(encoder, target_BD, history_TD, newest), leaves)
    assert_same(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("n_heads", [1, 3])
def test_the_attention_equals_that_of_torch(n_heads: int) -> None:
    torch.manual_seed(1)
    ours = QueryAttention(DIM, n_heads).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    theirs = nn.MultiheadAttention(DIM, n_heads, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    query_BD, history_TD = random_targets(), random_values(0)
    mask_BL = padded(random_keep(0))
    is_filled_B = mask_BL.any(1)
    assert not is_filled_B.all()

    def plain() -> torch.Tensor:
        # For a row without positions torch gives NaN, and our layer gives the output bias.
        history_BLD = padded(history_TD)[is_filled_B]
        query_B1D, masked_BL = query_BD[is_filled_B].unsqueeze(1), ~mask_BL[is_filled_B]
        attended, _ = theirs(query_B1D, history_BLD, history_BLD, key_padding_mask=masked_BL)
        result_BD = theirs.out_proj.bias.repeat(N_ROWS, 1)
        return result_BD.index_copy(0, is_filled_B.nonzero()[:, 0], attended.squeeze(1))

    inputs = [query_BD, history_TD]
    assert_same(
        result_and_gradients(
            lambda: ours(query_BD, padded(history_TD), mask_BL), [*inputs, *ours.parameters()]
        ),
        result_and_gradients(plain, [*inputs, *theirs.parameters()]),
    )


def test_the_initial_weights_have_the_shapes_and_ranges_of_those_of_torch() -> None:
    torch.manual_seed(4)
    ours = QueryAttention(DIM, 2).state_dict()
    theirs = nn.MultiheadAttention(DIM, 2).state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert weight.shape == theirs[name].shape
        assert float(weight.abs().max()) == pytest.approx(float(theirs[name].abs().max()), rel=0.2)


def test_dropout_applies_in_training_only() -> None:
    torch.manual_seed(2)
    encoder, target_BD, history_TD = make_encoder(dropout=0.5), random_targets(), random_values(0)
    assert not torch.equal(
        *(encoder(target_BD, history_TD, segments_of(history_TD)) for _ in range(2))
    )
    encoder.eval()
    assert torch.equal(*(encoder(target_BD, history_TD, segments_of(history_TD)) for _ in range(2)))


def test_attention_weights_are_dropped_one_by_one() -> None:
    torch.manual_seed(3)
    attention = QueryAttention(DIM, 1, dropout=0.5)
    nn.init.ones_(attention.in_proj_bias)
    nn.init.eye_(attention.out_proj.weight)
    actual_BD = attention(
        torch.randn(1000, DIM), torch.zeros(1000, 2, DIM), torch.ones(1000, 2, dtype=torch.bool)
    )
    # Both weights are 0.5 and all values 1; each weight is doubled or dropped.
    assert actual_BD[:, 0].unique().tolist() == [0.0, 1.0, 2.0]


def test_a_layer_drops_out_attention_hidden_units_and_feed_forward() -> None:
    torch.manual_seed(6)
    layer = TargetQueryLayer(DIM, n_heads=1, feed_forward_dim=5, dropout=0.5)
    for name, parameter in layer.named_parameters():
        nn.init.zeros_(parameter)
        if name in ("attention.out_proj.bias", "feed_forward.1.bias", "feed_forward.4.weight"):
            nn.init.ones_(parameter)
    nothing_BLD, mask_BL = torch.zeros(2000, 1, DIM), torch.ones(2000, 1, dtype=torch.bool)
    actual_BD = layer(torch.zeros(2000, DIM), nothing_BLD, mask_BL)
    # Attention gives 0 or 2. Each of the five hidden units also gives 0 or 2, and the sum of the
    # five is doubled or dropped.
    assert actual_BD.unique().tolist() == list(range(0, 24, 2))
    assert layer.eval()(torch.zeros(1, DIM), nothing_BLD[:1], mask_BL[:1]).unique().tolist() == [6]


def test_bfloat16_autocast_stays_near_float64() -> None:
    torch.manual_seed(4)
    encoder, target_BD, history_TD = make_encoder(), random_targets(), random_values(0)
    expected_BD = encoder(target_BD, history_TD, segments_of(history_TD))
    with torch.autocast("cpu", torch.bfloat16):
        actual_BD = encoder.float()(target_BD.float(), history_TD.float(), segments_of(history_TD))
    assert actual_BD.dtype == torch.float32
    assert (actual_BD - expected_BD).abs().max() < 0.05 * expected_BD.abs().max()


@torch.no_grad()
def test_a_history_in_bfloat16_becomes_float32_before_scores_and_softmax() -> None:
    torch.manual_seed(4)
    encoder = make_encoder().float()
    target_BD, history_TD = random_targets().float(), random_values(0).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        actual_BD = encoder(target_BD, history_TD, segments_of(history_TD))
        assert torch.equal(
            actual_BD, encoder(target_BD, history_TD.float(), segments_of(history_TD.float()))
        )


@pytest.mark.cuda
def test_the_encoder_gives_the_same_result_on_cuda() -> None:
    torch.manual_seed(5)
    encoder, target_BD, history_TD = make_encoder(), random_targets(), random_values(SPARE)
    expected_BD = encoder(target_BD, history_TD, segments_of(history_TD))
    actual_BD = encoder.cuda()(target_BD.cuda(), history_TD.cuda(), segments_of(history_TD.cuda()))
    torch.testing.assert_close(actual_BD.cpu(), expected_BD, atol=1e-9, rtol=0)


def test_heads_that_do_not_divide_the_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="4 heads do not divide 6"):
        make_encoder(n_heads=4)
