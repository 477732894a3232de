"""The transformer without padding equals that of torch with padding, in float64."""

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.config import TransformerDcnConfig
from mmctr_pipeline.models.layers.transformer import (
    Rectangles,
    SelfAttention,
    TransformerEncoder,
    TransformerLayer,
)
from mmctr_pipeline_tests.models.layers.ragged_case import (
    DIM,
    LENGTHS,
    N_REAL,
    SPARE,
    assert_same,
    padded,
    random_values,
    result_and_gradients,
    row_offsets,
)

OFFSETS = row_offsets(LENGTHS)
N_LAYERS, HIDDEN = 2, 16
FILLED_B = torch.tensor(LENGTHS) > 0
MASK_BL = padded(torch.ones(N_REAL, dtype=torch.bool))


def encoder(n_heads: int = 1, dropout: float = 0.0) -> TransformerEncoder:
    """Return an encoder in float64 with no parameter at its initial value."""
    config = TransformerDcnConfig(
        transformer_layers=N_LAYERS,
        n_heads=n_heads,
        feed_forward_dim=HIDDEN,
        transformer_dropout=dropout,
    )
    layers = TransformerEncoder(DIM, config).double()
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.6)
    return layers


def torch_encoder(ours: TransformerEncoder, n_heads: int = 1) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(DIM, n_heads, HIDDEN, dropout=0.0, batch_first=True)
    theirs = nn.TransformerEncoder(layer, N_LAYERS, enable_nested_tensor=False).double()
    theirs.load_state_dict(ours.state_dict())
    return theirs


def plain(
    theirs: nn.TransformerEncoder, values_TD: torch.Tensor, ignored_BL: torch.Tensor
) -> torch.Tensor:
    """Return torch's result at all positions.

    Attention ignores the positions where `ignored_BL` is True.
    """
    # Rows without positions are left out: torch gives NaN for them.
    encoded_BLD = theirs(padded(values_TD)[FILLED_B], src_key_padding_mask=ignored_BL[FILLED_B])
    return encoded_BLD[MASK_BL[FILLED_B]]


@pytest.mark.parametrize("spare", [0, SPARE])
@pytest.mark.parametrize("n_heads", [1, 3])
def test_results_and_gradients_equal_those_of_torch(n_heads: int, spare: int) -> None:
    torch.manual_seed(0)
    ours, values_TD = encoder(n_heads), random_values(spare)
    theirs = torch_encoder(ours, n_heads)
    assert_same(
        result_and_gradients(
            lambda: ours(values_TD, OFFSETS, max(LENGTHS))[:N_REAL],
            [values_TD, *ours.parameters()],
        ),
        result_and_gradients(
            lambda: plain(theirs, values_TD, ~MASK_BL), [values_TD, *theirs.parameters()]
        ),
        atol=1e-9,
    )


def test_an_inverted_mask_would_change_the_result() -> None:
    torch.manual_seed(1)
    ours, values_TD = encoder(), random_values(0).detach()
    theirs = torch_encoder(ours)
    encoded_TD = ours(values_TD, OFFSETS, max(LENGTHS))
    assert torch.allclose(encoded_TD, plain(theirs, values_TD, ~MASK_BL), atol=1e-9, rtol=0)
    # The longest row has no padding: an inverted mask would hide all of it and give NaN. So in
    # this row, nothing is hidden.
    inverted_TD = plain(theirs, values_TD, MASK_BL & (torch.tensor(LENGTHS) < 100)[:, None])
    assert (encoded_TD - inverted_TD).abs().max() > 1e-2


def test_padding_all_rows_to_the_same_width_does_not_change_the_result() -> None:
    torch.manual_seed(2)
    layer, values_TD = encoder(2).layers[0], random_values(SPARE)
    results = [
        result_and_gradients(
            lambda lengths=lengths: layer(values_TD, Rectangles(OFFSETS, 100, lengths))[:N_REAL],
            [values_TD, *layer.parameters()],
        )
        for lengths in (LENGTHS, None)
    ]
    assert_same(results[0], results[1])


@pytest.mark.parametrize("lengths", [LENGTHS, None])
def test_a_batch_of_empty_rows_gives_finite_gradients(
    lengths: list[int] | None,
) -> None:
    torch.manual_seed(3)
    layer = encoder().layers[0]
    values_TD = torch.randn(4, DIM, dtype=torch.float64)
    empty = torch.zeros(3, dtype=torch.int64)
    rows = Rectangles(empty, 5, None if lengths is None else [0, 0])
    encoded_TD = layer(values_TD, rows)
    assert encoded_TD.shape == (4, DIM)
    encoded_TD.sum().backward()
    gradients = [p.grad for p in layer.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_dropout_applies_in_training_only() -> None:
    torch.manual_seed(4)
    ours, values_TD = encoder(dropout=0.5), random_values(0).detach()
    first_TD, second_TD = (ours(values_TD, OFFSETS, 100) for _ in range(2))
    assert not torch.allclose(first_TD, second_TD)
    ours.eval()
    first_TD, second_TD = (ours(values_TD, OFFSETS, 100) for _ in range(2))
    assert torch.equal(first_TD, second_TD)
    theirs = torch_encoder(ours)
    assert torch.allclose(first_TD, plain(theirs, values_TD, ~MASK_BL), atol=1e-9, rtol=0)


def test_each_dropout_of_a_layer_drops_its_configured_share() -> None:
    torch.manual_seed(6)
    n_rows = 2000
    values_TD = torch.randn(n_rows, DIM)
    rows = Rectangles(torch.arange(n_rows + 1), 1, [1] * n_rows)
    attended_TD = SelfAttention(DIM, 1, 0.5)(values_TD, rows)
    assert float((attended_TD == 0).all(1).double().mean()) == pytest.approx(0.5, abs=0.05)

    layer = TransformerLayer(DIM, 1, 1, 0.5)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(layer.norm1.weight)
    nn.init.ones_(layer.norm2.weight)
    unchanged_TD = layer(values_TD, rows)

    def share_of_unchanged(results_TD: torch.Tensor) -> float:
        same_T = torch.isclose(results_TD, unchanged_TD, atol=1e-4).all(1)
        return float(same_T.double().mean())

    # A bias in a single dimension is dropped at half of the positions.
    for bias_D in (layer.self_attn.out_proj.bias, layer.linear2.bias):
        nn.init.zeros_(bias_D)
        bias_D.data[0] = 3.0
        biased_TD = layer(values_TD, rows)
        assert share_of_unchanged(biased_TD) == pytest.approx(0.5, abs=0.05)
        nn.init.zeros_(bias_D)
    # A single hidden unit that feeds one dimension is dropped before or after `linear2`.
    nn.init.ones_(layer.linear1.bias)
    layer.linear2.weight.data[0] = 3.0
    biased_TD = layer(values_TD, rows)
    assert share_of_unchanged(biased_TD) == pytest.approx(0.75, abs=0.05)


def test_bfloat16_under_autocast_is_close() -> None:
    torch.manual_seed(5)
    ours, values_TD = encoder(), random_values(0).detach()
    exact_TD = ours(values_TD, OFFSETS, 100)
    ours.float()
    with torch.autocast("cpu", torch.bfloat16):
        low_TD = ours(values_TD.float(), OFFSETS, 100)
    assert 0 < (low_TD - exact_TD).norm() / exact_TD.norm() < 0.03


def test_heads_that_do_not_divide_the_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="4 heads do not divide 6"):
        encoder(n_heads=4)
