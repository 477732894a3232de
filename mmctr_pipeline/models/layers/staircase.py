"""Matrix products with rows that begin with different numbers of zeros.

A row of a padded history, flattened, begins with zeros if the history is short. Sorted by
decreasing length the rows form a staircase, and products with values outside of it are skipped.
That is exact, since those values are zero.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mmctr_pipeline.precision import product_dtype

_ROWS_OF_OVERHEAD = 64
"""Rows whose product costs as much as reading the matrix once more for another step."""


@dataclasses.dataclass(frozen=True)
class Staircase:
    """The part of a matrix `(B, D)` that may be non-zero: in step k the last `widths[k]` columns.

    Step k ends before row `row_ends[k]`, where the next one begins; `widths` decrease.
    """

    row_ends: tuple[int, ...]
    widths: tuple[int, ...]

    @classmethod
    def from_widths(cls, widths: Sequence[int]) -> "Staircase":
        """Return the staircase of B rows that are non-zero in their last `widths` columns.

        Steps of few rows are merged into the wider one before if that is less work. Raises
        `ValueError` if a row is wider than the one before.
        """
        if any(after > before for before, after in itertools.pairwise(widths)):
            raise ValueError("rows must be sorted by decreasing width")
        steps = [(width, len(list(rows))) for width, rows in itertools.groupby(widths)]
        # For the first n steps: the least work, and the step at which each merged step begins.
        best: list[tuple[int, list[int]]] = [(0, [])]
        for end in range(1, len(steps) + 1):
            options = []
            for start in range(end):
                n_rows = sum(rows for _, rows in steps[start:end])
                work = best[start][0] + steps[start][0] ** 2 * (n_rows + _ROWS_OF_OVERHEAD)
                options.append((work, [*best[start][1], start]))
            best.append(min(options))
        starts = best[-1][1]
        row_starts = list(itertools.accumulate((rows for _, rows in steps), initial=0))
        return cls(
            tuple(row_starts[end] for end in [*starts, len(steps)][1:]),
            tuple(steps[start][0] for start in starts),
        )

    @classmethod
    def full(cls, n_rows: int, dim: int) -> "Staircase":
        """Return the staircase of one step, which skips nothing."""
        return cls((n_rows,), (dim,))

    def blocks(self, dim: int) -> Iterator[tuple[slice, slice]]:
        """Yield rows and columns of each step, in a matrix of `dim` columns."""
        for start, end, width in zip((0, *self.row_ends), self.row_ends, self.widths, strict=False):
            yield slice(start, end), slice(dim - width, dim)

    def shells(self, dim: int) -> Iterator[tuple[slice, slice]]:
        """Yield the columns that each step has beyond the next one, and all rows that have them."""
        next_widths = (*self.widths, 0)[1:]
        for end, width, next_width in zip(self.row_ends, self.widths, next_widths, strict=True):
            yield slice(0, end), slice(dim - width, dim - next_width)


def staircase_linear(
    x_BI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None, stairs: Staircase
) -> torch.Tensor:
    """Return `x W^T + b` as `(B, O)`, in autocast's number format under autocast.

    Parameters
    ----------
    x_BI
        Input, zero outside of `stairs`; its gradient is zero there too.
    weight_OI
        Matrix W.
    bias_O
        Bias b, or None.
    stairs
        Part of `x` that may be non-zero.
    """
    dtype = product_dtype(x_BI)
    product_BO = _StaircaseLinear.apply(x_BI.to(dtype), weight_OI.to(dtype), stairs)
    return product_BO if bias_O is None else product_BO + bias_O.to(dtype)


class _StaircaseLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BI: torch.Tensor, weight_OI: torch.Tensor, stairs: Staircase
    ) -> torch.Tensor:
        ctx.stairs = stairs
        ctx.save_for_backward(x_BI, weight_OI)
        product_BO = x_BI.new_empty(x_BI.shape[0], len(weight_OI))
        for rows, columns in stairs.blocks(x_BI.shape[1]):
            torch.mm(x_BI[rows, columns], weight_OI[:, columns].t(), out=product_BO[rows])
        return product_BO

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BO: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x_BI, weight_OI = ctx.saved_tensors
        grad_x_BI = torch.zeros_like(x_BI)
        for rows, columns in ctx.stairs.blocks(x_BI.shape[1]):
            grad_x_BI[rows, columns] = grad_BO[rows] @ weight_OI[:, columns]
        grad_weight_OI = torch.zeros_like(weight_OI)
        for rows, columns in ctx.stairs.shells(x_BI.shape[1]):
            grad_weight_OI[:, columns] = grad_BO[rows].t() @ x_BI[rows, columns]
        return grad_x_BI, grad_weight_OI, None
