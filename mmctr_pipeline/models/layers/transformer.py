"""A transformer encoder over the histories of a ragged batch, without padding on CPUs.

Positions and offsets are as in `segments`. Rows attend within themselves alone, so that a history
is the same alone as in any batch; what stands at spare positions reaches nothing.
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.models.layers.multi_head import MultiHeadWeights
from mmctr_pipeline.models.layers.padded import from_padded, padded_mask, to_padded


class TransformerEncoder(nn.Module):
    """`n_layers` of self-attention and feed-forward, as `nn.TransformerEncoder` has them.

    Vaswani et al. 2017, arXiv 1706.03762. `layers` holds the parameters of
    `nn.TransformerEncoderLayer(dim, n_heads, feed_forward_dim, dropout)` under the same names:
    normalisation after each residual, ReLU. There is no encoding of positions.
    """

    def __init__(
        self, dim: int, n_layers: int, n_heads: int, feed_forward_dim: int, dropout: float
    ) -> None:
        """Raise `ValueError` where `n_heads` does not divide `dim`."""
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerLayer(dim, n_heads, feed_forward_dim, dropout) for _ in range(n_layers)
        )

    def forward(
        self, values_TD: torch.Tensor, offsets: torch.Tensor, max_length: int
    ) -> torch.Tensor:
        """Return `(T, D)`; no row has more than `max_length` positions.

        Each run of rows of equal length is computed together, which is fastest where rows are
        sorted by length. On other devices than CPUs all are padded to `max_length`, since the host
        would have to read the lengths.
        """
        lengths = offsets.diff().tolist() if values_TD.device.type == "cpu" else None
        for layer in self.layers:
            values_TD = layer(values_TD, offsets, max_length, lengths)
        return values_TD


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with dropout, residual and LayerNorm behind it."""

    def __init__(self, dim: int, n_heads: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, n_heads, dropout)
        self.linear1 = nn.Linear(dim, feed_forward_dim)
        self.linear2 = nn.Linear(feed_forward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        values_TD: torch.Tensor,
        offsets: torch.Tensor,
        max_length: int,
        lengths: list[int] | None,
    ) -> torch.Tensor:
        """Return `(T, D)`; `lengths` of the rows, where the host knows them."""
        attended_TD = self.self_attn(values_TD, offsets, max_length, lengths)
        values_TD = self.norm1(values_TD + self.dropout(attended_TD))
        hidden_TF = self.dropout(torch.relu(self.linear1(values_TD)))
        return self.norm2(values_TD + self.dropout(self.linear2(hidden_TF)))


class SelfAttention(MultiHeadWeights):
    """`nn.MultiheadAttention` of each row's positions over the same, under the same names.

    Scores, softmax and weighted sums are float32 under autocast.
    """

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__(dim, n_heads)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        values_TD: torch.Tensor,
        offsets: torch.Tensor,
        max_length: int,
        lengths: list[int] | None,
    ) -> torch.Tensor:
        """Return `(T, D)`; `lengths` of the rows, where the host knows them."""
        projected_TF = functional.linear(values_TD, self.in_proj_weight, self.in_proj_bias)
        if lengths is None:
            projected_BLF = to_padded(projected_TF, offsets, max_length)
            attended_BLD = self._attend(projected_BLF, padded_mask(offsets, max_length))
            attended_TD = from_padded(attended_BLD, offsets, len(values_TD))
        else:
            attended_TD = self._attend_in_runs(projected_TF, lengths)
        return self.out_proj(attended_TD)

    def _attend_in_runs(self, projected_TF: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """Attend in each run of rows of equal length, which need neither padding nor mask."""
        runs = [(length, len(list(rows))) for length, rows in itertools.groupby(lengths)]
        n_spare = len(projected_TF) - sum(lengths)
        sizes = [length * n_rows for length, n_rows in runs]
        *parts, spare_SF = projected_TF.split([*sizes, n_spare])
        attended = [
            self._attend(part_TF.unflatten(0, (n_rows, length))).flatten(0, 1)
            for part_TF, (length, n_rows) in zip(parts, runs, strict=True)
        ]
        dim = self.out_proj.in_features
        dtype = self.in_proj_weight.dtype
        return torch.cat([*attended, spare_SF.new_zeros(n_spare, dim, dtype=dtype)])

    def _attend(
        self, projected_BLF: torch.Tensor, mask_BL: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return `(B, L, D)`, each position's mean of the values that the mask lets it see."""
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
                # A finite number, so that a row that sees nothing gets weights and no NaN.
                lowest = torch.finfo(dtype).min
                scores_Bhlm = scores_Bhlm.masked_fill(~mask_BL[:, None, None, :], lowest)
            weight_Bhlm = self.dropout(torch.softmax(scores_Bhlm, dim=-1))
            attended_Bhle = weight_Bhlm @ value_Bhme.to(dtype)
        return attended_Bhle.transpose(1, 2).flatten(2)
