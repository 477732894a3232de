"""Sums, means and maxima over the rows of a ragged batch, and rows spread over their positions.

B rows share T positions: row i owns the positions `offsets[i]` to `offsets[i + 1]`. T may exceed
`offsets[-1]`: the spare positions at the end belong to no row, add to no result and get gradient
zero, whatever finite values they hold. No shape depends on the data and the host reads nothing
back, so that a CUDA graph can capture all of this; gradients are the same in every run, since
nothing is added up by atomic operations on floats.
"""

import dataclasses
from typing import Any

import torch
from torch.nn import functional


def rows_of_positions(offsets: torch.Tensor, n_positions: int) -> torch.Tensor:
    """Return the row of each of T positions, `(T,) int64`, for ragged `offsets` `(B + 1,)`.

    Positions from `offsets[-1]` on get row B, one beyond the last.
    """
    # The row of a position is the number of rows that end at it or before.
    ends = torch.zeros(n_positions + 1, dtype=torch.int64, device=offsets.device)
    ends.index_add_(0, offsets[1:], torch.ones_like(offsets[1:], dtype=torch.int64))
    return ends.cumsum(0)[:n_positions]


@dataclasses.dataclass(frozen=True)
class Segments:
    """Which row each position of a ragged batch belongs to.

    `offsets` is `(B + 1,) int64`; `row_T` is `(T,) int64`, B at spare positions.
    """

    offsets: torch.Tensor
    row_T: torch.Tensor

    @classmethod
    def of(cls, offsets: torch.Tensor, n_positions: int) -> "Segments":
        """Return the segments of `n_positions` positions, spare ones included."""
        return cls(offsets, rows_of_positions(offsets, n_positions))

    @property
    def n_rows(self) -> int:
        """B, the number of rows."""
        return len(self.offsets) - 1

    def kept(self, keep_T: torch.Tensor | None = None) -> torch.Tensor:
        """Return `(T,) bool`: the position belongs to a row and `keep_T`, if given, keeps it."""
        real_T = self.row_T < self.n_rows
        return real_T if keep_T is None else real_T & keep_T


def segment_sum(values_TD: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Return each row's sum `(B, D)`; zero for a row without positions."""
    sums_BD: torch.Tensor = _SegmentSum.apply(values_TD, segments)
    return sums_BD


def segment_mean(values_TD: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Return each row's mean `(B, D)`; zero for a row without positions."""
    length_B = segments.offsets.diff().clamp_min(1)
    return segment_sum(values_TD, segments) / length_B.unsqueeze(-1).to(values_TD.dtype)


def segment_max(values_TD: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Return each row's maximum `(B, D)` in each dimension; zero for a row without positions.

    Equal maxima share the gradient evenly, as in `torch.amax`.
    """
    top_BD: torch.Tensor = _SegmentMax.apply(values_TD, segments)
    return top_BD


def spread(rows_BD: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Return `(T, D)`: at each position its row of `rows_BD`, zero at spare positions."""
    spread_TD: torch.Tensor = _Spread.apply(rows_BD, segments)
    return spread_TD


def raw_spread(rows_BX: torch.Tensor, row_T: torch.Tensor) -> torch.Tensor:
    """Return `spread` of a tensor `(B, ...)`, for use where autograd is not recording."""
    zero_1X = rows_BX.new_zeros(1, *rows_BX.shape[1:])  # the row of spare positions
    return torch.cat([rows_BX, zero_1X]).index_select(0, row_T)


def raw_sum(
    values_TD: torch.Tensor, offsets: torch.Tensor, weight_T: torch.Tensor | None = None
) -> torch.Tensor:
    """Return each row's sum `(B, D)`, for use where autograd is not recording.

    `weight_T`, of the values' dtype, weighs the positions; it must be finite at spare ones.
    """
    if values_TD.device.type == "cpu":
        # The fastest of torch's sums on a CPU. The last bag holds the spare positions.
        position_T = torch.arange(len(values_TD), device=values_TD.device)
        return functional.embedding_bag(
            position_T, values_TD, offsets, mode="sum", per_sample_weights=weight_T
        )[:-1]
    if weight_T is not None:
        values_TD = values_TD * weight_T.unsqueeze(-1)
    # Unlike the sum above, this one would add up half-precision values in their own dtype.
    wide_TD = values_TD.to(torch.promote_types(values_TD.dtype, torch.float32))
    sums_BD = torch.segment_reduce(wide_TD, "sum", offsets=offsets, unsafe=True, initial=0)
    return sums_BD.to(values_TD.dtype)


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_TD: torch.Tensor, segments: Segments) -> torch.Tensor:
        ctx.segments = segments
        return raw_sum(values_TD, segments.offsets)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BD: torch.Tensor) -> tuple[torch.Tensor, None]:
        return raw_spread(grad_BD, ctx.segments.row_T), None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BD: torch.Tensor, segments: Segments) -> torch.Tensor:
        ctx.segments = segments
        return raw_spread(rows_BD, segments.row_T)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_TD: torch.Tensor) -> tuple[torch.Tensor, None]:
        return raw_sum(grad_TD, ctx.segments.offsets), None


class _SegmentMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_TD: torch.Tensor, segments: Segments) -> torch.Tensor:
        top_BD = values_TD.new_zeros(segments.n_rows + 1, values_TD.shape[1])
        row_TD = segments.row_T.unsqueeze(-1).expand_as(values_TD)
        top_BD = top_BD.scatter_reduce(0, row_TD, values_TD, "amax", include_self=False)[:-1]
        ctx.segments = segments
        ctx.save_for_backward(values_TD, top_BD)
        return top_BD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BD: torch.Tensor) -> tuple[torch.Tensor, None]:
        values_TD, top_BD = ctx.saved_tensors
        segments: Segments = ctx.segments
        is_top_TD = (values_TD == raw_spread(top_BD, segments.row_T)).to(grad_BD.dtype)
        share_BD = grad_BD / raw_sum(is_top_TD, segments.offsets)
        return is_top_TD.mul_(raw_spread(share_BD, segments.row_T)), None
