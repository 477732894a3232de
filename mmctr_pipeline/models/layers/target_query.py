"""Layers in which the target item queries its history, each time with what it has found so far.

The history is padded once for all layers: on the CPU in blocks of rows of similar length, on other
devices as one block, so that no shape depends on data.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.models.config import TargetCrossAttentionConfig
from mmctr_pipeline.models.layers.dense import at_least_float32
from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.models.layers.one_history import OneHistory
from mmctr_pipeline.models.layers.padded import encode_by_length, padded_mask, to_padded
from mmctr_pipeline.models.layers.pairs import Pairs
from mmctr_pipeline.models.layers.segments import host_may_read
from mmctr_pipeline.models.layers.transformer import MultiHeadWeights

_EPSILON = 1e-6


class QueryAttention(MultiHeadWeights):
    """Multi-head softmax attention of one query per row over the row's padded history.

    Result, parameters and their names are those of `nn.MultiheadAttention(dim, n_heads)` (Vaswani
    et al. 2017, arXiv 1706.03762) for one query and a padding mask. With one query, each head's key
    projection can be applied to the query and its value projection to the weighted sum, once per
    row instead of once per position. The key bias would add the same to all scores of a row, which
    does not change their softmax, so it is not used here.
    """

    def __init__(self, dim: int, n_heads: int, dropout: float = 0.0) -> None:
        """Raise `ValueError` if `n_heads` does not divide `dim`."""
        super().__init__(dim, n_heads)
        self._dropout = dropout

    def forward(
        self, query_BD: torch.Tensor, history_BLD: torch.Tensor, mask_BL: torch.Tensor
    ) -> torch.Tensor:
        """Return `(B, D)`; a row whose mask is all False gets only the output bias.

        Scores, softmax and sums are in the history's dtype, even under autocast.
        """
        n_heads = self._n_heads
        query_DD, key_DD, value_DD = self.in_proj_weight.chunk(3)
        query_bias_D, _, value_bias_D = self.in_proj_bias.chunk(3)
        # h: head, e: dimension within a head, d: dimension of the model.
        key_hed = key_DD.unflatten(0, (n_heads, -1))
        value_hed = value_DD.unflatten(0, (n_heads, -1))
        query_BD = functional.linear(query_BD, query_DD, query_bias_D)
        query_Bhe = query_BD.unflatten(1, (n_heads, -1)) / math.sqrt(key_hed.shape[1])
        moved_Bhd = torch.einsum("bhe,hed->bhd", query_Bhe, key_hed)
        with torch.autocast(history_BLD.device.type, enabled=False):
            scores_BhL = moved_Bhd.to(history_BLD.dtype) @ history_BLD.transpose(1, 2)
            real_B1L = mask_BL.unsqueeze(1)
            lowest = torch.finfo(scores_BhL.dtype).min
            weight_BhL = scores_BhL.masked_fill(~real_B1L, lowest).softmax(-1) * real_B1L
            weight_BhL = functional.dropout(weight_BhL, self._dropout, self.training)
            pooled_Bhd = weight_BhL @ history_BLD
        values_Bhe = torch.einsum("bhd,hed->bhe", pooled_Bhd, value_hed)
        # The total is one, except with dropout and for rows without positions.
        total_Bh1 = weight_BhL.sum(-1, keepdim=True)
        values_Bhe = values_Bhe + total_Bh1 * value_bias_D.view(n_heads, -1)
        return self.out_proj(values_Bhe.flatten(1))


class TargetQueryLayer(nn.Module):
    """`t + MHA(query = norm(t), keys = values = h)`, then `t + feed-forward(norm(t))`.

    A decoder layer (Vaswani et al. 2017, arXiv 1706.03762) for one query, without self-attention,
    with RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) before each part. The history h is
    already normalised.

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
        """Raise `ValueError` if `n_heads` does not divide `dim`."""
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, _EPSILON)
        self.attention = QueryAttention(dim, n_heads, dropout)
        self.feed_forward = nn.Sequential(
            nn.RMSNorm(dim, _EPSILON),
            nn.Linear(dim, feed_forward_dim),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(feed_forward_dim, dim),
        )
        self.dropout = Dropout(dropout)

    def forward(
        self, target_BD: torch.Tensor, history_BLD: torch.Tensor, mask_BL: torch.Tensor
    ) -> torch.Tensor:
        """Return the targets `(B, D)`, each with what it found in its history."""
        # Autocast shortens the results of products, but not the residual stream.
        target_BD = at_least_float32(target_BD)
        found_BD = self.attention(self.attention_norm(target_BD), history_BLD, mask_BL)
        target_BD = target_BD + self.dropout(found_BD)
        return target_BD + self.dropout(self.feed_forward(target_BD))


class TargetQueryEncoder(nn.Module):
    """Layers of `TargetQueryLayer` over the newest `max_history` positions of a history.

    Keys and values are the history after RMSNorm. Its gain is left to each layer's projections of
    keys and values, so that the history is normalised once for all layers.
    """

    def __init__(self, dim: int, config: TargetCrossAttentionConfig) -> None:
        """Build the layers for targets and history items of width `dim`.

        `attention_dropout` follows attention weights, attention, hidden units and feed-forward.
        Raises `ValueError` if `n_heads` does not divide `dim`.
        """
        super().__init__()
        layer = dim, config.n_heads, config.feed_forward_dim, config.attention_dropout
        self.layers = nn.ModuleList(TargetQueryLayer(*layer) for _ in range(config.n_layers))
        max_history = config.features.max_history
        self._widths = [width for width in (4, 8, 16, 32, 64) if width < max_history]
        self._widths.append(max_history)

    def forward(
        self, target_BD: torch.Tensor, history_TD: torch.Tensor, segments: Pairs
    ) -> torch.Tensor:
        """Return `(B, D)` for targets `(B, D)` and positions `(T, D)`.

        Spare positions are ignored. Scores, softmax and sums are float32 under
        autocast.
        """
        history_TD = at_least_float32(history_TD)
        history_TD = functional.rms_norm(history_TD, history_TD.shape[-1:], eps=_EPSILON)

        def through_layers(
            rows_b: torch.Tensor | None, history_bLD: torch.Tensor, mask_bL: torch.Tensor
        ) -> torch.Tensor:
            answer_bD = target_BD if rows_b is None else target_BD.index_select(0, rows_b)
            for layer in self.layers:
                answer_bD = layer(answer_bD, history_bLD, mask_bL)
            return answer_bD

        width, offsets = self._widths[-1], segments.offsets
        if isinstance(segments, OneHistory):
            mask_1L = segments.is_real & (segments.ages() < width)
            return through_layers(None, history_TD.unsqueeze(0), mask_1L)
        if host_may_read(history_TD):
            return encode_by_length(through_layers, history_TD, offsets, self._widths)
        history_BLD = to_padded(history_TD, offsets, width)
        return through_layers(None, history_BLD, padded_mask(offsets.diff(), width))
