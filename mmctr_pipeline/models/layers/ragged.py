"""Attention over the rows of a ragged batch: softmax, weighted sums, dot products, pooling.

As in `segments`, spare positions at the end are ignored and no shape depends on the data.
"""

from typing import Any

import torch
from torch import nn

from mmctr_pipeline.models.layers.exact import ExactLinear, at_least_float32, exact_dots
from mmctr_pipeline.models.layers.segments import Segments, raw_spread, raw_sum


def segment_softmax(
    scores_T: torch.Tensor, segments: Segments, keep_T: torch.Tensor | None = None
) -> torch.Tensor:
    """Return softmax weights within each row, of scores `(T,)` or, for H heads, `(T, H)`.

    Positions not in `keep_T` `(T,) bool` get weight zero. The weights of a row add up to one, or
    are all zero where the row keeps no position. They are float32, or float64 for such scores.
    """
    weight_T: torch.Tensor = _SegmentSoftmax.apply(
        at_least_float32(scores_T), segments.kept(keep_T), segments
    )
    return weight_T


def weighted_sum(
    values_TD: torch.Tensor, weight_T: torch.Tensor, segments: Segments
) -> torch.Tensor:
    """Return each row's sum of values times weights, in the weights' dtype.

    Weights `(T,)` give `(B, D)`; weights `(T, H)` give `(B, H, D)`, one sum for each of H heads. A
    row without positions gives zero.
    """
    if weight_T.ndim == 1:
        return weighted_sum(values_TD, weight_T.unsqueeze(1), segments).squeeze(1)
    sums_BHD: torch.Tensor = _WeightedSum.apply(values_TD, weight_T, segments)
    return sums_BHD


def row_dots(rows_BHD: torch.Tensor, values_TD: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Return `(T, H)`: the dot product of each position with each of its row's H vectors.

    Computed in float32 (float64 for such rows), also under autocast; zero at spare positions.
    """
    dots_TH: torch.Tensor = _RowDots.apply(at_least_float32(rows_BHD), values_TD, segments)
    return dots_TH


class RaggedAttentionPooling(nn.Module):
    """Pools each row's positions by weights from a small network over the position alone.

    Linear(dim, hidden), tanh, Linear(hidden, 1), softmax over the row, weighted sum. A row without
    positions gives the zero vector. Scores, softmax and sum are float32 under autocast.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden_dim)
        self.score = ExactLinear(hidden_dim, 1)

    def forward(
        self, values_TD: torch.Tensor, offsets: torch.Tensor, keep_T: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return `(B, D)`; row i pools `values_TD[offsets[i]:offsets[i + 1]]` where kept."""
        segments = Segments.of(offsets, len(values_TD))
        scores_T = self.score(torch.tanh(self.hidden(values_TD))).squeeze(-1)
        return weighted_sum(values_TD, segment_softmax(scores_T, segments, keep_T), segments)


class _SegmentSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores_T: torch.Tensor, keep_T: torch.Tensor, segments: Segments
    ) -> torch.Tensor:
        if scores_T.ndim == 2:
            keep_T = keep_T.unsqueeze(-1)
        offsets, row_T = segments.offsets, segments.row_T
        scores_T = torch.where(keep_T, scores_T, -torch.inf)
        # A row that keeps nothing has no maximum; any finite number serves it.
        lowest = torch.finfo(scores_T.dtype).min
        top_B = torch.segment_reduce(scores_T, "max", offsets=offsets, unsafe=True, initial=lowest)
        weight_T = scores_T.sub_(raw_spread(top_B, row_T)).exp_()
        # The maximum alone adds one, so that only rows that keep nothing have a smaller total.
        total_B = _few_sums(weight_T, offsets).clamp_min_(1)
        weight_T.mul_(raw_spread(total_B.reciprocal_(), row_T))
        ctx.segments = segments
        ctx.save_for_backward(weight_T)
        return weight_T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_T: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight_T,) = ctx.saved_tensors
        product_T = weight_T * grad_T
        mean_B = _few_sums(product_T, ctx.segments.offsets)
        mean_T = raw_spread(mean_B, ctx.segments.row_T)
        return product_T.addcmul_(weight_T, mean_T, value=-1), None, None


def _few_sums(values_T: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Return each row's sums of one number per position, or of a few."""
    return torch.segment_reduce(values_T, "sum", offsets=offsets, unsafe=True, initial=0)


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values_TD: torch.Tensor, weight_TH: torch.Tensor, segments: Segments
    ) -> torch.Tensor:
        ctx.segments = segments
        ctx.save_for_backward(values_TD, weight_TH)
        return _head_sums(values_TD, weight_TH, segments)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BHD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values_TD, weight_TH = ctx.saved_tensors
        wide_TD = values_TD.to(weight_TH.dtype)
        grad_weight_HT, grad_values_TD = [], None
        for grad_BD, weight_T in zip(grad_BHD.unbind(1), weight_TH.unbind(1), strict=True):
            grad_TD = raw_spread(grad_BD, ctx.segments.row_T)
            grad_weight_HT.append(exact_dots(grad_TD, wide_TD))
            # In place, since fresh memory for each position's vector costs more than the product.
            grad_TD.mul_(weight_T.unsqueeze(-1))
            grad_values_TD = grad_TD if grad_values_TD is None else grad_values_TD.add_(grad_TD)
        return (
            None if grad_values_TD is None else grad_values_TD.to(values_TD.dtype),
            torch.stack(grad_weight_HT, dim=1),
            None,
        )


class _RowDots(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows_BHD: torch.Tensor, values_TD: torch.Tensor, segments: Segments
    ) -> torch.Tensor:
        ctx.segments = segments
        ctx.save_for_backward(rows_BHD, values_TD)
        wide_TD = values_TD.to(rows_BHD.dtype)
        dots_HT = [
            exact_dots(raw_spread(rows_BD, segments.row_T), wide_TD)
            for rows_BD in rows_BHD.unbind(1)
        ]
        return torch.stack(dots_HT, dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_TH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        rows_BHD, values_TD = ctx.saved_tensors
        grad_values_TD = values_TD.new_zeros(values_TD.shape, dtype=rows_BHD.dtype)
        for head, rows_BD in enumerate(rows_BHD.unbind(1)):
            rows_TD = raw_spread(rows_BD, ctx.segments.row_T)
            grad_values_TD.addcmul_(rows_TD, grad_TH[:, head : head + 1])
        grad_rows_BHD = _head_sums(values_TD, grad_TH, ctx.segments)
        return grad_rows_BHD, grad_values_TD.to(values_TD.dtype), None


def _head_sums(
    values_TD: torch.Tensor, weight_TH: torch.Tensor, segments: Segments
) -> torch.Tensor:
    """Return `(B, H, D)`: each row's sum of its values, weighted for each head."""
    values_TD = values_TD.to(weight_TH.dtype)
    return torch.stack(
        [raw_sum(values_TD, segments.offsets, weight_T) for weight_T in weight_TH.t().contiguous()],
        dim=1,
    )
