"""Ragged softmax, weighted sums and pooling against plain padded references in float64."""

import pytest
import torch

from mmctr_pipeline.models.layers.ragged import (
    RaggedAttentionPooling,
    row_dots,
    segment_softmax,
    weighted_sum,
)
from mmctr_pipeline.models.layers.segments import Segments
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

HEADS = 3


def padded_pooling(
    pooling: RaggedAttentionPooling, values_TD: torch.Tensor, keep_T: torch.Tensor
) -> torch.Tensor:
    """The recipe's attention pooling as everyone writes it: padding, mask, softmax."""
    padded_BLD = padded(values_TD)
    hidden = torch.tanh(padded_BLD @ pooling.hidden.weight.T + pooling.hidden.bias)
    scores_BL = (hidden @ pooling.score.weight.T + pooling.score.bias)[..., 0]
    return (masked_softmax(scores_BL, padded(keep_T))[..., None] * padded_BLD).sum(1)


@pytest.mark.parametrize("spare", [0, SPARE])
def test_pooling_equals_the_padded_form(spare: int) -> None:
    torch.manual_seed(0)
    pooling = RaggedAttentionPooling(DIM, 4).double()
    values_TD, keep_T = random_values(spare), random_keep(spare)
    # Softmax takes no notice of the bias of the score, so that its gradient is zero.
    leaves = [values_TD, *pooling.hidden.parameters(), pooling.score.weight]
    ours = result_and_gradients(lambda: pooling(values_TD, offsets_of(LENGTHS), keep_T), leaves)
    theirs = result_and_gradients(lambda: padded_pooling(pooling, values_TD, keep_T), leaves)
    assert_same(ours, theirs)
    assert torch.count_nonzero(ours[0][[1, 3, 5]]) == 0
    assert torch.count_nonzero(ours[1][N_REAL:]) == 0


def test_a_batch_of_empty_histories_gives_zeros_and_finite_gradients() -> None:
    pooling = RaggedAttentionPooling(DIM, 4)
    values_TD = torch.zeros(0, DIM, requires_grad=True)
    pooled_BD = pooling(values_TD, torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=bool))
    pooled_BD.sum().backward()
    assert torch.equal(pooled_BD, torch.zeros(3, DIM))
    assert all(bool(torch.isfinite(p.grad).all()) for p in pooling.parameters())


@pytest.mark.parametrize("spare", [0, SPARE])
@pytest.mark.parametrize("shape", [(), (HEADS,)])
def test_softmax_equals_the_padded_form(shape: tuple[int, ...], spare: int) -> None:
    torch.manual_seed(1)
    scores = torch.randn(N_REAL + spare, *shape, dtype=torch.float64, requires_grad=True)
    keep_T = random_keep(spare)
    segments = Segments.of(offsets_of(LENGTHS), len(scores))
    mask_BL = padded(keep_T)
    positions_BL = padded(torch.arange(N_REAL) + 1)

    def plain() -> torch.Tensor:
        heads = scores.reshape(len(scores), -1).unbind(1)
        weights_HT = []
        for scores_T in heads:
            weight_BL = masked_softmax(padded(scores_T), mask_BL)
            weights_HT.append(torch.cat([weight_BL[positions_BL > 0], torch.zeros(spare)]))
        return torch.stack(weights_HT, dim=1).view_as(scores)

    ours = result_and_gradients(lambda: segment_softmax(scores, segments, keep_T), [scores])
    assert_same(ours, result_and_gradients(plain, [scores]))


def test_softmax_survives_extreme_scores() -> None:
    scores_T = torch.tensor([1000.0, 1000.0, -1000.0, -1001.0, 3.0], requires_grad=True)
    segments = Segments.of(offsets_of([2, 2, 1, 0]), 5)
    keep_T = torch.tensor([True, True, True, True, False])
    weights_T = segment_softmax(scores_T, segments, keep_T)
    expected = [0.5, 0.5, *torch.softmax(torch.tensor([-1000.0, -1001.0]), 0).tolist(), 0.0]
    assert torch.allclose(weights_T, torch.tensor(expected))
    weights_T[0].backward()
    assert bool(torch.isfinite(scores_T.grad).all())


def test_softmax_of_half_precision_scores_is_float32() -> None:
    scores_T = torch.randn(N_REAL, dtype=torch.bfloat16)
    segments = Segments.of(offsets_of(LENGTHS), N_REAL)
    weights_T = segment_softmax(scores_T, segments)
    assert torch.equal(weights_T, segment_softmax(scores_T.float(), segments))


@pytest.mark.parametrize("spare", [0, SPARE])
def test_weighted_sums_of_several_heads_equal_the_padded_form(spare: int) -> None:
    torch.manual_seed(2)
    values_TD = random_values(spare)
    weight_TH = random_values(spare, HEADS)
    segments = Segments.of(offsets_of(LENGTHS), len(values_TD))
    leaves = [values_TD, weight_TH]
    ours = result_and_gradients(lambda: weighted_sum(values_TD, weight_TH, segments), leaves)
    theirs = result_and_gradients(
        lambda: torch.einsum("blh,bld->bhd", padded(weight_TH), padded(values_TD)), leaves
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize("spare", [0, SPARE])
def test_dot_products_with_the_row_equal_the_plain_form(spare: int) -> None:
    torch.manual_seed(3)
    rows_BHD = torch.randn(N_ROWS, HEADS, DIM, dtype=torch.float64, requires_grad=True)
    values_TD = random_values(spare)
    segments = Segments.of(offsets_of(LENGTHS), len(values_TD))

    def plain() -> torch.Tensor:
        dots = [
            values @ rows_BHD[row].T for row, values in enumerate(values_TD[:N_REAL].split(LENGTHS))
        ]
        return torch.cat([*dots, torch.zeros(spare, HEADS, dtype=torch.float64)])

    leaves = [rows_BHD, values_TD]
    ours = result_and_gradients(lambda: row_dots(rows_BHD, values_TD, segments), leaves)
    assert_same(ours, result_and_gradients(plain, leaves))
    assert torch.count_nonzero(ours[2][N_REAL:]) == 0


def test_row_dots_and_their_gradients_are_as_fine_under_autocast_as_in_float32() -> None:
    torch.manual_seed(0)
    rows_BHD = torch.randn(N_ROWS, HEADS, DIM, requires_grad=True)
    values_TD = torch.randn(N_REAL, DIM, requires_grad=True)
    segments = Segments.of(offsets_of(LENGTHS), N_REAL)
    leaves = [rows_BHD, values_TD]
    plain = result_and_gradients(lambda: row_dots(rows_BHD, values_TD, segments), leaves)
    with torch.autocast("cpu", torch.bfloat16):
        found = result_and_gradients(lambda: row_dots(rows_BHD, values_TD, segments), leaves)
    assert all(map(torch.equal, found, plain))
