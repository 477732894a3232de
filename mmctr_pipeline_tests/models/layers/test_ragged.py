"""Ragged softmax and pooling against plain padded references in float64."""

import torch

from mmctr_pipeline.models.layers.ragged import (
    RaggedAttentionPooling,
    rows_of_positions,
    segment_softmax,
)

LENGTHS = [3, 0, 7, 1, 0, 5, 100]
DIM = 6


def offsets_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])


def padded_pooling(
    pooling: RaggedAttentionPooling, padded_BLD: torch.Tensor, mask_BL: torch.Tensor
) -> torch.Tensor:
    """The recipe's attention pooling as everyone writes it: padding, mask, softmax."""
    hidden = torch.tanh(padded_BLD @ pooling.hidden.weight.T + pooling.hidden.bias)
    scores_BL = (hidden @ pooling.score.weight.T + pooling.score.bias)[..., 0]
    weights_BL = torch.softmax(scores_BL.masked_fill(~mask_BL, -1e30), dim=1)
    weights_BL = torch.where(mask_BL.any(1, keepdim=True), weights_BL, 0.0)
    return (weights_BL[..., None] * padded_BLD).sum(1)


def test_ragged_pooling_equals_the_padded_form_in_result_and_gradients() -> None:
    torch.manual_seed(0)
    pooling = RaggedAttentionPooling(DIM, 4).double()
    values_TD = torch.randn(sum(LENGTHS), DIM, dtype=torch.float64, requires_grad=True)
    keep_T = torch.rand(sum(LENGTHS)) > 0.2
    keep_T[10] = False  # the row of length 1 keeps nothing
    offsets = offsets_of(LENGTHS)
    toward_BD = torch.randn(len(LENGTHS), DIM, dtype=torch.float64)

    pooled_BD = pooling(values_TD, offsets, keep_T)
    (pooled_BD * toward_BD).sum().backward()
    ours = [values_TD.grad, *(p.grad for p in pooling.parameters())]
    values_TD.grad = None
    pooling.zero_grad()

    padded_BLD = torch.zeros(len(LENGTHS), max(LENGTHS), DIM, dtype=torch.float64)
    mask_BL = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        start = int(offsets[row])
        padded_BLD[row, :length] = values_TD[start : start + length]
        mask_BL[row, :length] = keep_T[start : start + length]
    reference_BD = padded_pooling(pooling, padded_BLD, mask_BL)
    (reference_BD * toward_BD).sum().backward()
    theirs = [values_TD.grad, *(p.grad for p in pooling.parameters())]

    assert torch.allclose(pooled_BD, reference_BD, atol=1e-12, rtol=0)
    for our, their in zip(ours, theirs, strict=True):
        assert our is not None
        assert their is not None
        assert torch.allclose(our, their, atol=1e-12, rtol=0)
    assert torch.count_nonzero(pooled_BD[[1, 3, 4]]) == 0
    assert torch.count_nonzero(pooled_BD[[0, 2, 5, 6]]) == 4 * DIM


def test_a_batch_of_empty_histories_gives_zeros_and_finite_gradients() -> None:
    pooling = RaggedAttentionPooling(DIM, 4)
    values_TD = torch.zeros(0, DIM, requires_grad=True)
    pooled_BD = pooling(values_TD, torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=bool))
    pooled_BD.sum().backward()
    assert torch.equal(pooled_BD, torch.zeros(3, DIM))
    assert all(bool(torch.isfinite(p.grad).all()) for p in pooling.parameters())


def test_segment_softmax_survives_extreme_scores() -> None:
    scores_T = torch.tensor([1000.0, 1000.0, -1000.0, -1001.0, 3.0], requires_grad=True)
    row_T = torch.tensor([0, 0, 1, 1, 2])
    keep_T = torch.tensor([True, True, True, True, False])
    weights_T = segment_softmax(scores_T, row_T, 4, keep_T)
    expected = [0.5, 0.5, *torch.softmax(torch.tensor([-1000.0, -1001.0]), 0).tolist(), 0.0]
    assert torch.allclose(weights_T, torch.tensor(expected))
    weights_T[0].backward()
    assert bool(torch.isfinite(scores_T.grad).all())


def test_rows_of_positions_skips_empty_rows() -> None:
    assert rows_of_positions(offsets_of([2, 0, 3]), 5).tolist() == [0, 0, 2, 2, 2]
