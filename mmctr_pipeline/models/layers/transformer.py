"""A transformer encoder over the histories of a ragged batch, without padding on CPUs.

Positions and offsets are as in `segments`. Positions attend within their own row only, so that a
history's result does not depend on its batch; values at spare positions affect nothing.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.models.config import TransformerDcnConfig
from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.models.layers.padded import from_padded, padded_mask, to_padded
from mmctr_pipeline.models.layers.segments import host_may_read


class MultiHeadWeights(nn.Module):
    """Parameters of `nn.MultiheadAttention(dim, n_heads)`, with its names and initialisation."""

    def __init__(self, dim: int, n_heads: int) -> None:
        """Raise `ValueError` if `n_heads` does not divide `dim`."""
        super().__init__()
        if dim % n_heads:
            raise ValueError(
                f"{n_heads} heads do not divide {dim} dimensions, which follow from "
                "features.projection_dim; change one of the two"
            )
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)
        self._n_heads = n_heads


@dataclasses.dataclass(frozen=True)
class Rectangles:
    """Cuts the T positions of a ragged batch into rectangles of rows, and joins them again.

    If the rows' `lengths` are given, rows of equal length that follow one another form a rectangle,
    without padding. If not, as on devices whose host would have to wait for the lengths, all rows
    are padded to `max_length`.
    """

    offsets: torch.Tensor
    max_length: int
    lengths: Sequence[int] | None

    def cut(self, values_TF: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Return rectangles `(B, L, F)`, each with its mask `(B, L)`, None if nothing is padded."""
        if self.lengths is None:
            mask_BL = padded_mask(self.offsets.diff(), self.max_length)
            return [(to_padded(values_TF, self.offsets, self.max_length), mask_BL)]
        runs = [(length, len(list(rows))) for length, rows in itertools.groupby(self.lengths)]
        runs = runs or [(0, 0)]
        sizes = [length * n_rows for length, n_rows in runs]
        parts = values_TF[: sum(sizes)].split(sizes)
        return [
            (part_TF.unflatten(0, (n_rows, length)), None)
            for part_TF, (length, n_rows) in zip(parts, runs, strict=True)
        ]

    def join(self, rectangles: list[torch.Tensor], n_positions: int) -> torch.Tensor:
        """Return `(T, D)` for rectangles `(B, L, D)`; zero at spare positions."""
        if self.lengths is None:
            return from_padded(rectangles[0], self.offsets, n_positions)
        parts = [rectangle_BLD.flatten(0, 1) for rectangle_BLD in rectangles]
        n_spare = n_positions - sum(map(len, parts))
        return torch.cat([*parts, parts[0].new_zeros(n_spare, parts[0].shape[1])])


class TransformerEncoder(nn.Module):
    """`n_layers` of self-attention and feed-forward, equal to `nn.TransformerEncoder`.

    Vaswani et al. 2017, arXiv 1706.03762. `layers` holds the parameters of
    `nn.TransformerEncoderLayer(dim, n_heads, feed_forward_dim)` under the same names:
    normalisation after each residual, ReLU. Positions are not encoded.
    """

    def __init__(self, dim: int, config: TransformerDcnConfig) -> None:
        """Build the layers for positions with vectors of width `dim`.

        `transformer_dropout` follows attention weights, attention, hidden units and feed-forward.
        Raises `ValueError` if `n_heads` does not divide `dim`.
        """
        super().__init__()
        layer = dim, config.n_heads, config.feed_forward_dim, config.transformer_dropout
        n_layers = config.transformer_layers
        self.layers = nn.ModuleList(TransformerLayer(*layer) for _ in range(n_layers))

    def forward(
        self, values_TD: torch.Tensor, offsets: torch.Tensor, max_length: int
    ) -> torch.Tensor:
        """Return `(T, D)`; no row has more than `max_length` positions.

        On CPUs consecutive rows of equal length are computed together, which is fastest for rows
        sorted by length. On other devices all rows are padded to `max_length`.
        """
        lengths = offsets.diff().tolist() if host_may_read(values_TD) else None
        rows = Rectangles(offsets, max_length, lengths)
        for layer in self.layers:
            values_TD = layer(values_TD, rows)
        return values_TD


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each followed by dropout, residual and LayerNorm.

    Parameters
    ----------
    dim
        Width of the input and of the output.
    n_heads
        Number of attention heads; must divide `dim`.
    feed_forward_dim
        Width of the hidden layer of the feed-forward part.
    dropout
        Share of dropped units.
    """

    def __init__(self, dim: int, n_heads: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, n_heads, dropout)
        self.linear1 = nn.Linear(dim, feed_forward_dim)
        self.linear2 = nn.Linear(feed_forward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, values_TD: torch.Tensor, rows: Rectangles) -> torch.Tensor:
        """Return `(T, D)`."""
        values_TD = self.norm1(values_TD + self.dropout(self.self_attn(values_TD, rows)))
        hidden_TF = self.dropout(torch.relu(self.linear1(values_TD)))
        return self.norm2(values_TD + self.dropout(self.linear2(hidden_TF)))


class SelfAttention(MultiHeadWeights):
    """`nn.MultiheadAttention` among the positions of each row, with the same parameter names.

    Scores, softmax and weighted sums are float32 under autocast.
    """

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__(dim, n_heads)
        self.dropout = Dropout(dropout)

    def forward(self, values_TD: torch.Tensor, rows: Rectangles) -> torch.Tensor:
        """Return `(T, D)`."""
        projected_TF = functional.linear(values_TD, self.in_proj_weight, self.in_proj_bias)
        attended = [self._attend(*rectangle) for rectangle in rows.cut(projected_TF)]
        return self.out_proj(rows.join(attended, values_TD.shape[0]))

    def _attend(self, projected_BLF: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
        """Return each position's attention over the values where the mask is True, `(B, L, D)`."""
        # h: head, l and m: positions, e: dimension within a head.
        query_Bhle, key_Bhme, value_Bhme = (
            part_BLD.unflatten(2, (self._n_heads, -1)).transpose(1, 2)
            for part_BLD in projected_BLF.chunk(3, dim=2)
        )
        with torch.autocast(projected_BLF.device.type, enabled=False):
            dtype = self.in_proj_weight.dtype
            query_Bhle = query_Bhle.to(dtype) / math.sqrt(query_Bhle.shape[-1])
            scores_Bhlm = query_Bhle @ key_Bhme.to(dtype).transpose(2, 3)
            if mask_BL is not None:
                # A finite number, so that a row without positions gets weights and no NaN.
                lowest = torch.finfo(dtype).min
                scores_Bhlm = scores_Bhlm.masked_fill(~mask_BL[:, None, None, :], lowest)
            weight_Bhlm = self.dropout(torch.softmax(scores_Bhlm, dim=-1))
            attended_Bhle = weight_Bhlm @ value_Bhme.to(dtype)
        return attended_Bhle.transpose(1, 2).flatten(2)
