"""Attention over the positions of a ragged batch's histories, without padding.

All layers here take `(T, D)` positions and the `Pairs` that these form with the rows. Spare
positions at the end are ignored.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.models.config import DinAttentionSettings
from mmctr_pipeline.models.layers.dense import Dice, Float32Linear, activation
from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.models.layers.pairs import Pairs
from mmctr_pipeline.models.layers.segments import (
    expand_to_positions,
    row_dots,
    segment_softmax,
    weighted_sum,
)


class AttentionPooling(nn.Module):
    """Pools each row's positions with weights from a small network over the position alone.

    Linear(dim, hidden), tanh, Linear(hidden, 1), softmax over the row, weighted sum. A row without
    positions gives the zero vector. Scores, softmax and sum are float32 under autocast.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden_dim)
        self.score = Float32Linear(hidden_dim, 1)

    def forward(
        self, values_TD: torch.Tensor, segments: Pairs, keep_T: torch.Tensor
    ) -> torch.Tensor:
        """Return `(B, D)`, where each row pools its kept positions."""
        scores_T = self.score(torch.tanh(self.hidden(values_TD))).squeeze(-1)
        return weighted_sum(values_TD, segment_softmax(scores_T, keep_T, segments), segments)


class TargetAttention(nn.Module):
    """DIN's attention: an MLP scores `[query, key, query - key, query * key]` at each position.

    Zhou et al. 2018, arXiv 1706.06978: the scores weigh the keys unnormalised, so that their sum
    may express the strength of interest; `attention_softmax` makes them sum to one in each row.
    The layers are Linear(4 dim, hidden), activation, dropout and so on, and a final Linear to one
    score.
    """

    def __init__(self, dim: int, config: DinAttentionSettings, n_inputs: int = 0) -> None:
        """Build the layers.

        Parameters
        ----------
        dim
            Width D of query and keys.
        config
            The settings `attention_*` are used; dropout follows each activation.
        n_inputs
            Further numbers per position that the first layer reads, beyond DIN's.

        Raises `ValueError` without a hidden layer or for an unknown activation.
        """
        super().__init__()
        hidden_dims = config.attention_hidden_dims
        if not hidden_dims:
            raise ValueError(
                "target attention needs a hidden layer: set its number of units in "
                "attention_hidden_dims"
            )
        self.first = nn.Linear(4 * dim, hidden_dims[0])
        # Saved models have weights under this name.
        self.of_inputs = nn.Linear(n_inputs, hidden_dims[0], bias=False) if n_inputs else None
        self.further = nn.ModuleList(map(nn.Linear, hidden_dims[:-1], hidden_dims[1:]))
        self.activations = nn.ModuleList(
            activation(config.attention_activation, n) for n in hidden_dims
        )
        self.dropout = Dropout(config.attention_dropout)
        self.score = Float32Linear(hidden_dims[-1], 1)
        self._softmax = config.attention_softmax

    def forward(
        self,
        query_BD: torch.Tensor,
        keys_TD: torch.Tensor,
        segments: Pairs,
        inputs_TN: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the weighted sum of each row's keys `(B, D)`; zero for a row without any.

        Parameters
        ----------
        query_BD
            One query per row.
        keys_TD
            One key per position.
        segments
            The pairs of rows and positions.
        inputs_TN
            The further numbers of each pair of a row and a position, `(T, n_inputs)`.
        """
        hidden_TH = self._first(query_BD, keys_TD, segments)
        if self.of_inputs is not None:
            assert inputs_TN is not None
            hidden_TH = hidden_TH + self.of_inputs(inputs_TN)
        for depth, activate in enumerate(self.activations):
            if depth > 0:
                hidden_TH = self.further[depth - 1](hidden_TH)
            # Spare positions must not enter Dice's statistics.
            dice = isinstance(activate, Dice)
            hidden_TH = activate(hidden_TH, segments.is_real) if dice else activate(hidden_TH)
            hidden_TH = self.dropout(hidden_TH)
        scores_T = self.score(hidden_TH).squeeze(-1)
        if self._softmax:
            weight_T = segment_softmax(scores_T, segments.is_real, segments)
        else:
            weight_T = scores_T.masked_fill(~segments.is_real, 0.0)
        return weighted_sum(keys_TD, weight_T, segments)

    def _first(
        self, query_BD: torch.Tensor, keys_TD: torch.Tensor, segments: Pairs
    ) -> torch.Tensor:
        """Return the first layer's output `(T, H)`.

        The query's part is computed once per row, and the key's once per position.

        `W [q, k, q - k, q * k]` equals `(W_q + W_d) q + (W_k - W_d) k + W_p (q * k)`.
        """
        query_HD, key_HD, difference_HD, product_HD = self.first.weight.chunk(4, dim=1)
        query_BH = functional.linear(query_BD, query_HD + difference_HD, self.first.bias)
        product_TD = expand_to_positions(query_BD, segments) * segments.of_positions(keys_TD)
        key_TH = segments.of_positions(functional.linear(keys_TD, key_HD - difference_HD))
        product_TH = functional.linear(product_TD, product_HD)
        return key_TH + product_TH + expand_to_positions(query_BH, segments)


class ReluTargetAttention(nn.Module):
    """QIN's attention: weights are the ReLU of scaled dot products, without softmax or biases.

    `u = W_o sum_l relu(W_q t . W_k h_l / sqrt(A)) W_v h_l` with A twice `dim`. As only the weights
    are non-linear, `W_k` is applied to the query and `W_v` to the sum, once per row instead of once
    per position.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, 2 * dim, bias=False)
        self.key = nn.Linear(dim, 2 * dim, bias=False)
        self.value = nn.Linear(dim, 2 * dim, bias=False)
        self.output = nn.Linear(2 * dim, dim, bias=False)

    def forward(
        self, target_BD: torch.Tensor, history_TD: torch.Tensor, segments: Pairs
    ) -> torch.Tensor:
        """Return u as `(B, D)`; zero for a row without positions."""
        query_BA = self.query(target_BD) / math.sqrt(self.query.out_features)
        query_BD = functional.linear(query_BA, self.key.weight.t())
        weight_T = torch.relu(row_dots(query_BD, history_TD, segments))
        return self.output(self.value(weighted_sum(history_TD, weight_T, segments)))
