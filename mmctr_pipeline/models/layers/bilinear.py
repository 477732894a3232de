"""The exact bilinear interaction of two vectors, as matrix products."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mmctr_pipeline.precision import product_dtype


class BilinearInteraction(nn.Bilinear):
    """`nn.Bilinear` (same parameters, same result) as a matrix product on outer products.

    Torch's version takes one small product per output; `benchmarks/train.py` compares the two.
    Under autocast the products are taken in autocast's number format, as in a linear layer.
    """

    def forward(
        self, input1: torch.Tensor, input2: torch.Tensor, row_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return `(B, out)` from `input1` `(B, in1)` and `input2` `(B, in2)`.

        With `row_B` `(B,) int64` the left side of row i is `input1[row_B[i]]`. If many rows share a
        left side, each left side is multiplied only once. This takes more memory: `in2 * out`
        values for each of the B rows.
        """
        dtype = product_dtype(input1)
        left, right, weight = input1.to(dtype), input2.to(dtype), self.weight.to(dtype)
        # In a program to export, a loop over blocks would fix their number.
        if torch.compiler.is_exporting() or (
            row_B is not None and 2 * left.shape[0] <= row_B.shape[0]
        ):
            n_out, _, n_right = weight.shape
            left_HF = left @ weight.transpose(0, 1).flatten(1)
            left_BF = left_HF if row_B is None else left_HF.index_select(0, row_B)
            left_BOJ = left_BF.view(-1, n_out, n_right)
            bilinear_BO = torch.bmm(left_BOJ, right.unsqueeze(2)).squeeze(2)
        else:
            left = left if row_B is None else left.index_select(0, row_B)
            bilinear_BO = _Bilinear.apply(left, right, weight)
        return bilinear_BO + self.bias.to(dtype)


_CPU_ROWS_AT_ONCE = 512
"""Rows whose outer products are computed together: as many as fit in cache."""


class _Bilinear(torch.autograd.Function):
    """`out_bo = sum_ij x_bi W_oij y_bj`, some rows at a time, without storing outer products.

    Storing them for the backward pass would mean a round trip through memory, which takes longer
    than multiplying again.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BI: torch.Tensor, y_BJ: torch.Tensor, weight_OIJ: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x_BI, y_BJ, weight_OIJ)
        weight_FO = weight_OIJ.flatten(1).t()
        out_BO = x_BI.new_empty(x_BI.shape[0], len(weight_OIJ))
        for rows, outer_bIJ in _outer_products(x_BI, y_BJ):
            torch.mm(outer_bIJ.flatten(1), weight_FO, out=out_BO[rows])
        return out_BO

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BO: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x_BI, y_BJ, weight_OIJ = ctx.saved_tensors
        weight_OF = weight_OIJ.flatten(1)
        grad_x_BI, grad_y_BJ = torch.empty_like(x_BI), torch.empty_like(y_BJ)
        # Rounding the sum to a short format after each block of rows would accumulate errors.
        wide = torch.promote_types(weight_OF.dtype, torch.float32)
        grad_weight_OF = torch.zeros_like(weight_OF, dtype=wide)
        for rows, outer_bIJ in _outer_products(x_BI, y_BJ):
            if grad_weight_OF.dtype == outer_bIJ.dtype:
                grad_weight_OF.addmm_(grad_BO[rows].t(), outer_bIJ.flatten(1))
            else:
                grad_weight_OF += grad_BO[rows].t() @ outer_bIJ.flatten(1)
            # The outer products are no longer needed; their gradient reuses the memory.
            torch.mm(grad_BO[rows], weight_OF, out=outer_bIJ.flatten(1))
            torch.bmm(outer_bIJ, y_BJ[rows].unsqueeze(2), out=grad_x_BI[rows].unsqueeze(2))
            torch.bmm(x_BI[rows].unsqueeze(1), outer_bIJ, out=grad_y_BJ[rows].unsqueeze(1))
        grad_weight_OIJ = grad_weight_OF.to(weight_OIJ.dtype).view_as(weight_OIJ)
        return grad_x_BI, grad_y_BJ, grad_weight_OIJ


def _outer_products(x_BI: torch.Tensor, y_BJ: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield slices of rows with their outer products; each overwrites those before it."""
    n_rows = x_BI.shape[0]
    step = min(n_rows, _CPU_ROWS_AT_ONCE) if x_BI.device.type == "cpu" else n_rows
    buffer_bIJ = x_BI.new_empty(step, x_BI.shape[1], y_BJ.shape[1])
    multiply = torch.bmm if x_BI.dtype == torch.bfloat16 else torch.mul
    for start in range(0, n_rows, max(step, 1)):
        rows = slice(start, min(start + step, n_rows))
        outer_bIJ = buffer_bIJ[: rows.stop - start]
        multiply(x_BI[rows].unsqueeze(2), y_BJ[rows].unsqueeze(1), out=outer_bIJ)
        yield rows, outer_bIJ
