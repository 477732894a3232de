"""Sums, means, maxima, softmax and dot products over the rows of a ragged batch.

B rows share T positions: row i owns the positions `offsets[i]` to `offsets[i + 1]`. T may exceed
`offsets[-1]`: the spare positions at the end belong to no row, contribute to no result and get
gradient zero, whatever finite values they hold. No shape depends on the data and the host reads
nothing back, so that a CUDA graph can capture all of this. Gradients are the same in every run,
since nothing is summed by atomic operations on floats.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from mmctr_pipeline.models.layers.dense import at_least_float32, exact_dots
from mmctr_pipeline.models.layers.pairs import Pairs


@dataclasses.dataclass(frozen=True)
class Segments(Pairs):
    """The row of each position of a ragged batch.

    `offsets` is `(B + 1,) int64`; `row_T` is `(T,) int64`, B at spare positions.
    """

    offsets: torch.Tensor
    row_T: torch.Tensor

    @classmethod
    def from_offsets(cls, offsets: torch.Tensor, n_positions: int) -> "Segments":
        """Return the segments of `n_positions` positions, spare ones included."""
        # The row of a position is the number of rows that end at it or before.
        ends = torch.zeros(n_positions + 1, dtype=torch.int64, device=offsets.device)
        ends.index_add_(0, offsets[1:], torch.ones_like(offsets[1:], dtype=torch.int64))
        return cls(offsets, ends.cumsum(0)[:n_positions])

    @property
    def shape(self) -> tuple[int, ...]:
        """`(T,)`."""
        return (self.row_T.shape[0],)

    @property
    def is_real(self) -> torch.Tensor:
        """`(T,) bool`, True for positions that belong to a row."""
        return self.row_T < self.offsets.shape[0] - 1

    def ages(self) -> torch.Tensor:
        """Return the number of newer positions in the row, `(T,) int64`; 0 at spare positions."""
        position_T = torch.arange(self.row_T.shape[0], device=self.row_T.device)
        return (self.expanded(self.offsets[1:]) - 1 - position_T).clamp_min(0)

    def expanded(self, rows_BX: torch.Tensor) -> torch.Tensor:
        """Return `(T, ...)`: the row's values at each of its positions, zero at spare positions."""
        zero_1X = rows_BX.new_zeros(1, *rows_BX.shape[1:])
        return torch.cat([rows_BX, zero_1X]).index_select(0, self.row_T)

    def of_positions(self, values_TX: torch.Tensor) -> torch.Tensor:
        """Return the values: each position is one pair."""
        return values_TX

    def weighted(self, values_TD: torch.Tensor, weight_T: torch.Tensor) -> torch.Tensor:
        """Return each row's weighted sum `(B, D)`."""
        return self.summed(values_TD, weight_T)

    def summed(self, values_TD: torch.Tensor, weight_T: torch.Tensor | None = None) -> torch.Tensor:
        """Return each row's sum `(B, D)`, weighted by `weight_T` of the values' dtype if given.

        The weights must be finite at spare positions.
        """
        if values_TD.device.type == "cpu":
            # The fastest of torch's sums on a CPU. The last bag holds the spare positions.
            position_T = torch.arange(values_TD.shape[0], device=values_TD.device)
            return functional.embedding_bag(
                position_T, values_TD, self.offsets, mode="sum", per_sample_weights=weight_T
            )[:-1]
        if weight_T is not None:
            values_TD = values_TD * weight_T.unsqueeze(-1)
        # Unlike the sum above, this one would add up half-precision values in their own dtype.
        return self.summed_numbers(at_least_float32(values_TD)).to(values_TD.dtype)

    def summed_numbers(self, values_TX: torch.Tensor) -> torch.Tensor:
        """Return each row's sum `(B, ...)`, fast if a position holds few numbers."""
        return torch.segment_reduce(values_TX, "sum", offsets=self.offsets, unsafe=True, initial=0)

    def dots(self, rows_BD: torch.Tensor, values_TD: torch.Tensor) -> torch.Tensor:
        """Return the dot product of each position with its row's vector, `(T,)`."""
        return exact_dots(expand_to_positions(rows_BD, self), values_TD)

    def largest(self, values_TD: torch.Tensor) -> torch.Tensor:
        """Return each row's maximum `(B, D)`; zero for a row without positions."""
        top_BD = values_TD.new_zeros(self.offsets.shape[0], values_TD.shape[1])
        row_TD = self.row_T.unsqueeze(-1).expand_as(values_TD)
        return top_BD.scatter_reduce(0, row_TD, values_TD, "amax", include_self=False)[:-1]

    def softmax(self, scores_T: torch.Tensor, keep_T: torch.Tensor) -> torch.Tensor:
        """Return softmax weights within each row, `(T,)`."""
        scores_T = torch.where(keep_T, scores_T, -torch.inf)
        # A row that keeps nothing has no maximum; any finite number will do.
        lowest = torch.finfo(scores_T.dtype).min
        top_B = torch.segment_reduce(
            scores_T, "max", offsets=self.offsets, unsafe=True, initial=lowest
        )
        weight_T = scores_T.sub_(self.expanded(top_B)).exp_()
        # The maximum alone contributes one; only rows that keep nothing have a smaller total.
        total_B = self.summed_numbers(weight_T).clamp_min_(1)
        return weight_T.mul_(self.expanded(total_B.reciprocal_()))


def host_may_read(values: torch.Tensor) -> bool:
    """Return whether shapes may depend on values: on the CPU, but not in a program to export."""
    return values.device.type == "cpu" and not torch.compiler.is_exporting()


def linear_map(
    values: torch.Tensor,
    apply: Callable[[torch.Tensor], torch.Tensor],
    transpose: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return `apply(values)` of a linear map, with `transpose` as its gradient."""
    return _LinearMap.apply(values, apply, transpose)


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, apply: Any, transpose: Any) -> torch.Tensor:
        ctx.transpose = transpose
        return apply(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.transpose(grad), None, None


def expand_to_positions(rows_BD: torch.Tensor, segments: Pairs) -> torch.Tensor:
    """Return `(T, D)`: at each position its row of `rows_BD`, zero at spare positions."""
    return linear_map(rows_BD, segments.expanded, segments.summed)


def segment_sum(values_TD: torch.Tensor, segments: Pairs) -> torch.Tensor:
    """Return each row's sum `(B, D)`; zero for a row without positions."""
    return linear_map(values_TD, segments.summed, segments.expanded)


def segment_mean(values_TD: torch.Tensor, segments: Pairs) -> torch.Tensor:
    """Return each row's mean `(B, D)`; zero for a row without positions."""
    length_B = segments.offsets.diff().clamp_min(1)
    return segment_sum(values_TD, segments) / length_B.unsqueeze(-1).to(values_TD.dtype)


def segment_max(values_TD: torch.Tensor, segments: Pairs) -> torch.Tensor:
    """Return each row's maximum `(B, D)` in each dimension; zero for a row without positions.

    Equal maxima share the gradient evenly, as in `torch.amax`.
    """
    return _SegmentMax.apply(values_TD, segments)


class _SegmentMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_TD: torch.Tensor, segments: Pairs) -> torch.Tensor:
        top_BD = segments.largest(values_TD)
        ctx.segments = segments
        ctx.save_for_backward(values_TD, top_BD)
        return top_BD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BD: torch.Tensor) -> tuple[torch.Tensor, None]:
        values_TD, top_BD = ctx.saved_tensors
        segments: Pairs = ctx.segments
        is_top_TD = (values_TD == segments.expanded(top_BD)).to(grad_BD.dtype)
        share_BD = grad_BD / segments.summed(is_top_TD)
        return is_top_TD.mul_(segments.expanded(share_BD)), None


def segment_softmax(scores_T: torch.Tensor, keep_T: torch.Tensor, segments: Pairs) -> torch.Tensor:
    """Return softmax weights within each row, of scores `(T,)`.

    Positions where `keep_T` `(T,) bool` is False get weight zero. The weights of a row sum to one,
    or are all zero if the row keeps no position. They are float32, or float64 if the scores are.
    """
    return _SegmentSoftmax.apply(at_least_float32(scores_T), keep_T & segments.is_real, segments)


class _SegmentSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores_T: torch.Tensor, keep_T: torch.Tensor, segments: Pairs
    ) -> torch.Tensor:
        weight_T = segments.softmax(scores_T, keep_T)
        ctx.segments = segments
        ctx.save_for_backward(weight_T)
        return weight_T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_T: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight_T,) = ctx.saved_tensors
        product_T = weight_T * grad_T
        mean_T = ctx.segments.expanded(ctx.segments.summed_numbers(product_T))
        return product_T.addcmul_(weight_T, mean_T, value=-1), None, None


def weighted_sum(values_TD: torch.Tensor, weight_T: torch.Tensor, segments: Pairs) -> torch.Tensor:
    """Return each row's sum of values times weights, `(B, D)`, in the weights' dtype.

    A row without positions gives zero.
    """
    return _WeightedSum.apply(values_TD, weight_T, segments)


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values_TD: torch.Tensor, weight_T: torch.Tensor, segments: Pairs
    ) -> torch.Tensor:
        ctx.segments = segments
        ctx.save_for_backward(values_TD, weight_T)
        return segments.weighted(values_TD.to(weight_T.dtype), weight_T)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        values_TD, weight_T = ctx.saved_tensors
        grad_TD = ctx.segments.expanded(grad_BD)
        grad_weight_T = exact_dots(grad_TD, values_TD.to(weight_T.dtype))
        # In place, since fresh memory for each position's vector costs more than the product.
        return grad_TD.mul_(weight_T.unsqueeze(-1)).to(values_TD.dtype), grad_weight_T, None


def row_dots(rows_BD: torch.Tensor, values_TD: torch.Tensor, segments: Pairs) -> torch.Tensor:
    """Return the dot product of each position with its row's vector, `(T,)`.

    Computed in float32 (float64 if `rows_BD` is), even under autocast; zero at spare positions.
    """
    return _RowDots.apply(at_least_float32(rows_BD), values_TD, segments)


class _RowDots(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows_BD: torch.Tensor, values_TD: torch.Tensor, segments: Pairs
    ) -> torch.Tensor:
        ctx.segments = segments
        ctx.save_for_backward(rows_BD, values_TD)
        return segments.dots(rows_BD, values_TD.to(rows_BD.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        rows_BD, values_TD = ctx.saved_tensors
        grad_rows_BD = ctx.segments.summed(values_TD.to(rows_BD.dtype), grad_T)
        grad_values_TD = ctx.segments.expanded(rows_BD).mul_(grad_T.unsqueeze(-1))
        return grad_rows_BD, grad_values_TD.to(values_TD.dtype), None
