"""Attention of a target item over the positions of its row's history, without padding.

All of these work on a ragged batch as `segments` describes it: `(T, D)` positions and `(B + 1,)`
offsets, with spare positions at the end ignored.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.models.layers.activations import Activation, Dice, activation
from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.models.layers.exact import ExactLinear
from mmctr_pipeline.models.layers.ragged import row_dots, segment_softmax, weighted_sum
from mmctr_pipeline.models.layers.segments import Segments, spread


class TargetAttention(nn.Module):
    """DIN's attention: an MLP scores `[query, key, query - key, query * key]` at each position.

    Zhou et al. 2018, arXiv 1706.06978: the scores weigh the keys as they are, so that their sum
    may tell the strength of interest; `softmax` makes them add up to one in each row. The layers
    are Linear(4 dim, hidden), activation, dropout and so on, and a last Linear to one score.
    """

    def __init__(
        self,
        dim: int,
        hidden_dims: Sequence[int],
        activation_name: Activation = "dice",
        *,
        softmax: bool = False,
        dropout: float = 0.0,
        n_inputs: int = 0,
    ) -> None:
        """Score positions by `n_inputs` further numbers each, besides what DIN does.

        Raises `ValueError` where there is no hidden layer or the activation is unknown.
        """
        super().__init__()
        if not hidden_dims:
            raise ValueError(
                "target attention needs a hidden layer: name its number of units in "
                "attention_hidden_dims"
            )
        self.first = nn.Linear(4 * dim, hidden_dims[0])
        self.of_inputs = nn.Linear(n_inputs, hidden_dims[0], bias=False) if n_inputs else None
        self.further = nn.ModuleList(map(nn.Linear, hidden_dims[:-1], hidden_dims[1:]))
        self.activations = nn.ModuleList(activation(activation_name, n) for n in hidden_dims)
        self.dropout = Dropout(dropout)
        self.score = ExactLinear(hidden_dims[-1], 1)
        self._softmax = softmax

    def forward(
        self,
        query_BD: torch.Tensor,
        keys_TD: torch.Tensor,
        offsets: torch.Tensor,
        keep_T: torch.Tensor | None = None,
        inputs_TN: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return `(B, D)`, the weighted sum of each row's kept keys; zero where there are none.

        `inputs_TN` are the further inputs, `(T, n_inputs)`.
        """
        segments = Segments.of(offsets, len(keys_TD))
        kept_T = segments.kept(keep_T)
        hidden_TH = self._first(query_BD, keys_TD, segments)
        if self.of_inputs is not None:
            assert inputs_TN is not None
            hidden_TH = hidden_TH + self.of_inputs(inputs_TN)
        for depth, activate in enumerate(self.activations):
            if depth > 0:
                hidden_TH = self.further[depth - 1](hidden_TH)
            # Dice takes statistics, in which the other positions have no part.
            dice = isinstance(activate, Dice)
            hidden_TH = activate(hidden_TH, kept_T) if dice else activate(hidden_TH)
            hidden_TH = self.dropout(hidden_TH)
        scores_T = self.score(hidden_TH).squeeze(-1)
        if self._softmax:
            weight_T = segment_softmax(scores_T, segments, keep_T)
        else:
            weight_T = scores_T.masked_fill(~kept_T, 0.0)
        return weighted_sum(keys_TD, weight_T, segments)

    def _first(
        self, query_BD: torch.Tensor, keys_TD: torch.Tensor, segments: Segments
    ) -> torch.Tensor:
        """Return the first layer `(T, H)`, of which the query's part is computed once per row.

        `W [q, k, q - k, q * k]` equals `(W_q + W_d) q + (W_k - W_d) k + W_p (q * k)`.
        """
        query_HD, key_HD, difference_HD, product_HD = self.first.weight.chunk(4, dim=1)
        query_BH = functional.linear(query_BD, query_HD + difference_HD, self.first.bias)
        product_TD = spread(query_BD, segments) * keys_TD
        of_key_TH = functional.linear(keys_TD, key_HD - difference_HD)
        return of_key_TH + functional.linear(product_TD, product_HD) + spread(query_BH, segments)


class ReluTargetAttention(nn.Module):
    """QIN's attention: ReLU of scaled dot products for weights, no softmax, no biases.

    `u = W_o sum_l relu(W_q t . W_k h_l / sqrt(A)) W_v h_l`, with A = `attention_dim` (twice `dim`
    by default). As nothing but the weights is non-linear, the key projection moves onto the query
    and the value projection behind the sum: positions see vectors of `dim` and no matrix at all.
    """

    def __init__(self, dim: int, attention_dim: int | None = None) -> None:
        super().__init__()
        attention_dim = 2 * dim if attention_dim is None else attention_dim
        self.query = nn.Linear(dim, attention_dim, bias=False)
        self.key = nn.Linear(dim, attention_dim, bias=False)
        self.value = nn.Linear(dim, attention_dim, bias=False)
        self.output = nn.Linear(attention_dim, dim, bias=False)

    def forward(
        self,
        target_BD: torch.Tensor,
        history_TD: torch.Tensor,
        offsets: torch.Tensor,
        keep_T: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return u as `(B, D)`; zero for a row that keeps no position."""
        segments = Segments.of(offsets, len(history_TD))
        query_BA = self.query(target_BD) / math.sqrt(self.query.out_features)
        query_BD = functional.linear(query_BA, self.key.weight.t())
        scores_T = row_dots(query_BD.unsqueeze(1), history_TD, segments).squeeze(1)
        weight_T = torch.relu(scores_T).masked_fill(~segments.kept(keep_T), 0.0)
        return self.output(self.value(weighted_sum(history_TD, weight_T, segments)))
