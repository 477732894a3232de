"""Layers that CTR models are built from: ragged pooling, bilinear interaction, scaling, tower."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn


def known_rows(ids: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Return `ids` with those beyond a table of `n_rows` rows replaced by row 0."""
    return torch.where(ids < n_rows, ids, 0)


def rows_of_positions(offsets: torch.Tensor, n_positions: int) -> torch.Tensor:
    """Return the row of each of T positions, `(T,) int64`, for ragged `offsets` `(B + 1,)`."""
    rows_B = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(rows_B, offsets.diff(), output_size=n_positions)


def segment_softmax(
    scores_T: torch.Tensor, row_T: torch.Tensor, n_rows: int, keep_T: torch.Tensor
) -> torch.Tensor:
    """Softmax within each row of a ragged batch; positions not in `keep_T` get weight zero.

    `row_T` is each position's row. The weights of a row add up to one, or are all zero where the
    row keeps no position.
    """
    scores_T = scores_T.masked_fill(~keep_T, -torch.inf)
    # Shifting a row's scores leaves its softmax as it is, so the maximum needs no gradient. Rows
    # that keep nothing have no maximum; any finite number serves them.
    top_B = scores_T.new_full((n_rows,), -torch.inf)
    top_B = top_B.scatter_reduce(0, row_T, scores_T.detach(), "amax").clamp_min(
        torch.finfo(scores_T.dtype).min
    )
    raised_T = torch.exp(scores_T - top_B[row_T])
    total_B = raised_T.new_zeros(n_rows).index_add(0, row_T, raised_T)
    return raised_T / total_B[row_T].clamp_min(torch.finfo(scores_T.dtype).tiny)


class RaggedAttentionPooling(nn.Module):
    """Pools each row's positions by weights from a small network over the position alone.

    Linear(dim, hidden), tanh, Linear(hidden, 1), softmax over the row, weighted sum. A row without
    positions gives the zero vector.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden_dim)
        self.score = nn.Linear(hidden_dim, 1)

    def forward(
        self, values_TD: torch.Tensor, offsets: torch.Tensor, keep_T: torch.Tensor
    ) -> torch.Tensor:
        """Return `(B, D)`; row i pools `values_TD[offsets[i]:offsets[i + 1]]` where kept."""
        n_rows = len(offsets) - 1
        row_T = rows_of_positions(offsets, len(values_TD))
        scores_T = self.score(torch.tanh(self.hidden(values_TD))).squeeze(-1)
        weight_T = segment_softmax(scores_T, row_T, n_rows, keep_T)
        pooled_BD = values_TD.new_zeros(n_rows, values_TD.shape[1])
        return pooled_BD.index_add(0, row_T, values_TD * weight_T.unsqueeze(-1))


class BilinearInteraction(nn.Bilinear):
    """`nn.Bilinear` (same parameters, same result) as a matrix product on outer products.

    torch's own takes one small product per output and its backward is several times slower.
    """

    def forward(self, input1: torch.Tensor, input2: torch.Tensor) -> torch.Tensor:
        """Return `(B, out)` from `input1` `(B, in1)` and `input2` `(B, in2)`."""
        bilinear_BO: torch.Tensor = _Bilinear.apply(input1, input2, self.weight)
        return bilinear_BO + self.bias


_CPU_ROWS_AT_ONCE = 128
"""Rows whose outer products (128 x 64 x 64 floats are 2 MB) stay in a core's cache."""


class _Bilinear(torch.autograd.Function):
    """`out_bo = sum_ij x_bi W_oij y_bj`, a few rows at a time, outer products never kept."""

    @staticmethod
    def forward(
        ctx: Any, x_BI: torch.Tensor, y_BJ: torch.Tensor, weight_OIJ: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x_BI, y_BJ, weight_OIJ)
        weight_FO = weight_OIJ.flatten(1).t()
        out_BO = x_BI.new_empty(len(x_BI), len(weight_OIJ))
        for rows, outer_bIJ in _outer_products(x_BI, y_BJ):
            torch.mm(outer_bIJ.flatten(1), weight_FO, out=out_BO[rows])
        return out_BO

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BO: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x_BI, y_BJ, weight_OIJ = ctx.saved_tensors
        weight_OF = weight_OIJ.flatten(1)
        grad_x_BI, grad_y_BJ = torch.empty_like(x_BI), torch.empty_like(y_BJ)
        grad_weight_OF = torch.zeros_like(weight_OF)
        for rows, outer_bIJ in _outer_products(x_BI, y_BJ):
            grad_weight_OF.addmm_(grad_BO[rows].t(), outer_bIJ.flatten(1))
            # The outer products are done with: their memory takes their gradient.
            torch.mm(grad_BO[rows], weight_OF, out=outer_bIJ.flatten(1))
            torch.bmm(outer_bIJ, y_BJ[rows].unsqueeze(2), out=grad_x_BI[rows].unsqueeze(2))
            torch.bmm(x_BI[rows].unsqueeze(1), outer_bIJ, out=grad_y_BJ[rows].unsqueeze(1))
        return grad_x_BI, grad_y_BJ, grad_weight_OF.view_as(weight_OIJ)


def _outer_products(x_BI: torch.Tensor, y_BJ: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield slices of rows with their outer products, which the next step overwrites."""
    n_rows = len(x_BI)
    step = min(n_rows, _CPU_ROWS_AT_ONCE) if x_BI.device.type == "cpu" else n_rows
    buffer_bIJ = x_BI.new_empty(step, x_BI.shape[1], y_BJ.shape[1])
    for start in range(0, n_rows, max(step, 1)):
        rows = slice(start, min(start + step, n_rows))
        outer_bIJ = buffer_bIJ[: rows.stop - start]
        torch.mul(x_BI[rows].unsqueeze(2), y_BJ[rows].unsqueeze(1), out=outer_bIJ)
        yield rows, outer_bIJ


class VectorScaling(nn.Module):
    """Standardises item vectors per dimension with stored statistics.

    Until `fit` is called, vectors pass unchanged.
    """

    mean_D: torch.Tensor
    scale_D: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(dim))
        self.register_buffer("scale_D", torch.ones(dim))

    def fit(self, vectors_ID: torch.Tensor, present_I: torch.Tensor) -> None:
        """Take mean and deviation over the present items alone.

        A dimension that does not vary is centred and left unscaled. Raises `ValueError` where no
        item is present.
        """
        if not bool(present_I.any()):
            raise ValueError("no item has a vector: there is nothing to standardise by")
        vectors = vectors_ID[present_I].double()
        mean_D = vectors.mean(0)
        deviation_D = (vectors - mean_D).square().mean(0).sqrt()
        # Rounding leaves a constant dimension with a tiny deviation; compare with the magnitude.
        varies_D = deviation_D > 1e-6 * vectors.square().mean().sqrt()
        self.mean_D.copy_(mean_D)
        self.scale_D.copy_(torch.where(varies_D, deviation_D, 1.0))

    def forward(self, vectors_BD: torch.Tensor, present_B: torch.Tensor) -> torch.Tensor:
        """Return standardised vectors, zero (the mean) where there is none."""
        scaled_BD = (vectors_BD - self.mean_D) / self.scale_D
        return torch.where(present_B.unsqueeze(-1), scaled_BD, 0.0)


def tower(in_dim: int, hidden_dims: Sequence[int], dropout: float) -> nn.Sequential:
    """Return hidden layers, each Linear, BatchNorm, ReLU, Dropout, and a Linear to one output."""
    layers: list[nn.Module] = []
    for hidden_dim in hidden_dims:
        layers += [
            nn.Linear(in_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
        ]
        in_dim = hidden_dim
    return nn.Sequential(*layers, nn.Linear(in_dim, 1))
