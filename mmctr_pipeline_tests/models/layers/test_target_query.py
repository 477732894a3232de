"""The target-query encoder against torch's own attention on padded histories."""

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.layers.target_query import (
    PaddedCrossAttention,
    TargetQueryEncoder,
    TargetQueryLayer,
)
from mmctr_pipeline_tests.models.layers.ragged_case import (
    DIM,
    LENGTHS,
    N_ROWS,
    SPARE,
    assert_same,
    offsets_of,
    padded,
    random_values,
    result_and_gradients,
)

OFFSETS = offsets_of(LENGTHS)


def an_encoder(max_history: int = max(LENGTHS), dropout: float = 0.0) -> TargetQueryEncoder:
    encoder = TargetQueryEncoder(
        DIM, n_layers=2, n_heads=2, feed_forward_dim=5, max_history=max_history, dropout=dropout
    )
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder.double()


def random_targets() -> torch.Tensor:
    return torch.randn(N_ROWS, DIM, dtype=torch.float64, requires_grad=True)


def plain(
    encoder: TargetQueryEncoder, target_BD: torch.Tensor, history_TD: torch.Tensor, newest: int
) -> torch.Tensor:
    """Each row alone, with torch's attention wherever there is a history."""
    histories = history_TD[: sum(LENGTHS)].split(LENGTHS)
    rows = []
    for t, history in zip(target_BD.split(1), histories, strict=True):
        keys = history[-newest:] if len(history) else history
        keys = keys / (keys.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        for layer in encoder.layers:
            theirs = nn.MultiheadAttention(DIM, 2).double()
            weights = dict(layer.attention.named_parameters())
            query = nn.functional.rms_norm(t, (DIM,), layer.attention_norm.weight, 1e-6)
            found = layer.attention.out_proj.bias
            if len(keys):
                found, _ = torch.func.functional_call(theirs, weights, (query, keys, keys))
            t = t + found
            norm, first, _, _, second = layer.feed_forward
            normed = nn.functional.rms_norm(t, (DIM,), norm.weight, 1e-6)
            t = t + second(torch.relu(first(normed)))
        rows.append(t)
    return torch.cat(rows)


@pytest.mark.parametrize("spare", [0, SPARE])
@pytest.mark.parametrize("newest", [100, 7, 4, 2])
def test_the_encoder_equals_the_plain_form_of_each_row(newest: int, spare: int) -> None:
    torch.manual_seed(0)
    encoder, target_BD, history_TD = an_encoder(newest), random_targets(), random_values(spare)
    leaves = [target_BD, history_TD, *encoder.parameters()]
    ours = result_and_gradients(lambda: encoder(target_BD, history_TD, OFFSETS), leaves)
    theirs = result_and_gradients(lambda: plain(encoder, target_BD, history_TD, newest), leaves)
    assert_same(ours, theirs, atol=1e-9)


def test_padded_and_ragged_attention_are_one() -> None:
    torch.manual_seed(1)
    attention = PaddedCrossAttention(DIM, 3).double()
    nn.init.normal_(attention.in_proj_bias)
    query_BD, history_TD = random_targets(), random_values(0)
    mask_BL = padded(torch.ones(len(history_TD), dtype=torch.bool))
    leaves = [query_BD, history_TD, attention.in_proj_weight]
    assert_same(
        result_and_gradients(
            lambda: attention.of_padded(query_BD, padded(history_TD), mask_BL), leaves
        ),
        result_and_gradients(lambda: attention(query_BD, history_TD, OFFSETS), leaves),
    )


def test_dropout_is_for_training_alone() -> None:
    torch.manual_seed(2)
    encoder, target_BD, history_TD = an_encoder(dropout=0.5), random_targets(), random_values(0)
    assert not torch.equal(*(encoder(target_BD, history_TD, OFFSETS) for _ in range(2)))
    encoder.eval()
    assert torch.equal(*(encoder(target_BD, history_TD, OFFSETS) for _ in range(2)))


def test_attention_weights_are_dropped_one_by_one() -> None:
    torch.manual_seed(3)
    attention = PaddedCrossAttention(DIM, 1, dropout=0.5)
    nn.init.ones_(attention.in_proj_bias)
    nn.init.eye_(attention.out_proj.weight)
    found_BD = attention.of_padded(
        torch.randn(1000, DIM), torch.zeros(1000, 2, DIM), torch.ones(1000, 2, dtype=torch.bool)
    )
    # Two equal weights of a half, each doubled or dropped, as is the value bias they carry.
    assert found_BD[:, 0].unique().tolist() == [0.0, 1.0, 2.0]


def test_a_layer_drops_what_is_found_hidden_units_and_what_they_make() -> None:
    torch.manual_seed(6)
    layer = TargetQueryLayer(DIM, n_heads=1, feed_forward_dim=5, dropout=0.5)
    for name, parameter in layer.named_parameters():
        nn.init.zeros_(parameter)
        if name in ("attention.out_proj.bias", "feed_forward.1.bias", "feed_forward.4.weight"):
            nn.init.ones_(parameter)
    nothing_BLD, mask_BL = torch.zeros(2000, 1, DIM), torch.ones(2000, 1, dtype=torch.bool)
    found_BD = layer(torch.zeros(2000, DIM), nothing_BLD, mask_BL)
    # What is found is 0 or 2, each of five hidden units too, and their sum is doubled or dropped.
    assert found_BD.unique().tolist() == list(range(0, 24, 2))
    assert layer.eval()(torch.zeros(1, DIM), nothing_BLD[:1], mask_BL[:1]).unique().tolist() == [6]


def test_bfloat16_autocast_stays_near_float64() -> None:
    torch.manual_seed(4)
    encoder, target_BD, history_TD = an_encoder(), random_targets(), random_values(0)
    expected_BD = encoder(target_BD, history_TD, OFFSETS)
    with torch.autocast("cpu", torch.bfloat16):
        found_BD = encoder.float()(target_BD.float(), history_TD.float(), OFFSETS)
    assert found_BD.dtype == torch.float32
    assert (found_BD - expected_BD).abs().max() < 0.05 * expected_BD.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_encoder_gives_the_same() -> None:
    torch.manual_seed(5)
    encoder, target_BD, history_TD = an_encoder(), random_targets(), random_values(SPARE)
    expected_BD = encoder(target_BD, history_TD, OFFSETS)
    found_BD = encoder.cuda()(target_BD.cuda(), history_TD.cuda(), OFFSETS.cuda())
    torch.testing.assert_close(found_BD.cpu(), expected_BD, atol=1e-9, rtol=0)


def test_heads_that_do_not_divide_the_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="4 heads do not divide 6"):
        TargetQueryEncoder(DIM, n_layers=1, n_heads=4, feed_forward_dim=5, max_history=8)
