"""Transformer_DCN, the challenge's first place and recipe B: a transformer, then DCNv2."""

import math

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.models.base import initialise
from mmctr_pipeline.models.batch import Batch, FeatureSpec
from mmctr_pipeline.models.config import TransformerDcnConfig
from mmctr_pipeline.models.feature_model import FeatureModel
from mmctr_pipeline.models.layers.cross_network import CrossNetwork
from mmctr_pipeline.models.layers.dense import Float32Linear, hidden_layers
from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.models.layers.padded import to_padded
from mmctr_pipeline.models.layers.segments import (
    Segments,
    expand_to_positions,
    host_may_read,
    segment_max,
)
from mmctr_pipeline.models.layers.staircase import Staircase, staircase_linear
from mmctr_pipeline.models.layers.transformer import TransformerEncoder


class TransformerDcn(FeatureModel):
    """A transformer over the pairs `[history item, target]`, whose output DCNv2 reads.

    arXiv 2505.03543 and arXiv 2504.17699; DCNv2: Wang et al. 2021, arXiv 2008.13535. Cross network
    and tower read, side by side, the encoded newest positions (zero where the history is shorter),
    the projected maximum over all positions (for an empty history the projection of zeros), target
    features, and context features; a last network joins their outputs.

    Most histories are shorter than the number of positions kept, and DCNv2 is by far the largest
    share of the work. On CPUs rows are therefore sorted by length, and zeros are left out
    (`staircase`).
    """

    def __init__(self, config: TransformerDcnConfig, spec: FeatureSpec) -> None:
        """Raise `ValueError` if tower or last network has no hidden layer, or heads do not fit.

        `n_heads` must divide twice the `projection_dim` of the features, if that is set.
        """
        # The heads split the features of two items, history item and target.
        super().__init__(config, spec, config.n_heads // math.gcd(config.n_heads, 2))
        if not config.hidden_dims or not config.head_hidden_dims:
            raise ValueError(
                "transformer_dcn needs a hidden layer in hidden_dims and in head_hidden_dims; set "
                "its number of units"
            )
        pair_dim = 2 * self.features.item_dim
        self.encoder = TransformerEncoder(pair_dim, config)
        self.pooled = nn.Linear(pair_dim, pair_dim)
        self._always_dim = pair_dim + self.features.item_dim + self.features.context_dim
        input_dim = config.kept_positions * pair_dim + self._always_dim
        self.cross = CrossNetwork(input_dim, config.cross_layers)
        deep_dims, head_dims = config.hidden_dims, config.head_hidden_dims
        self.deep_first = nn.Linear(input_dim, deep_dims[0])
        self.deep = nn.Sequential(
            nn.ReLU(),
            Dropout(config.dropout),
            *hidden_layers(deep_dims[0], deep_dims[1:], config.dropout),
        )
        self.head_first = nn.Linear(deep_dims[-1] + input_dim, head_dims[0])
        self.head = nn.Sequential(
            nn.ReLU(), Dropout(0.0), *hidden_layers(head_dims[0], head_dims[1:], 0.0)
        )
        self.logit = Float32Linear(head_dims[-1], 1)
        self._kept_positions = config.kept_positions
        self._max_history = config.features.max_history
        initialise(self)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        if not host_may_read(batch.history_T):
            stairs = Staircase.full(batch.n_rows, self.deep_first.in_features)
            return self._logits(batch, stairs)
        length_B = batch.history_offsets.diff()
        order_B = length_B.argsort(descending=True, stable=True)
        kept = length_B[order_B].clamp_max(self._kept_positions).tolist()
        pair_dim = 2 * self.features.item_dim
        stairs = Staircase.from_widths([self._always_dim + pair_dim * n for n in kept])
        return self._logits(_reordered(batch, order_B), stairs)[order_B.argsort()]

    def _logits(self, batch: Batch, stairs: Staircase) -> torch.Tensor:
        features, offsets = self.features(batch), batch.history_offsets
        segments = Segments.from_offsets(offsets, batch.history_T.shape[0])
        target_TD = expand_to_positions(features.item_BD, segments)
        pair_TD = torch.cat([features.history_TD, target_TD], dim=1)
        encoded_TD = self.encoder(pair_TD, offsets, self._max_history)
        newest_BKD = to_padded(encoded_TD, offsets, self._kept_positions)
        pooled_BD = self.pooled(segment_max(encoded_TD, segments))
        parts = [newest_BKD.flatten(1), pooled_BD, features.item_BD, features.context_BC]
        input_BF = torch.cat(parts, dim=1)

        first, last = self.deep_first, self.head_first
        deep_BH = self.deep(staircase_linear(input_BF, first.weight, first.bias, stairs))
        crossed_BF = self.cross(input_BF, stairs)
        # One linear layer over both outputs, as two products, since only the output of the cross
        # network has zeros to leave out.
        deep_weight_HD, crossed_weight_HF = last.weight.split(
            [deep_BH.shape[1], crossed_BF.shape[1]], dim=1
        )
        joined_BH = functional.linear(deep_BH, deep_weight_HD, last.bias)
        joined_BH = joined_BH + staircase_linear(crossed_BF, crossed_weight_HF, None, stairs)
        return self.with_users(self.logit(self.head(joined_BH)).squeeze(-1), features)


def _reordered(batch: Batch, order_B: torch.Tensor) -> Batch:
    """Return the rows of `batch` in another order, without spare positions."""
    lengths_B = batch.history_offsets.diff()[order_B]
    offsets = torch.cat([lengths_B.new_zeros(1), lengths_B.cumsum(0)])
    n_positions = int(offsets[-1])
    shift_B = batch.history_offsets[:-1][order_B] - offsets[:-1]
    shift_T = Segments.from_offsets(offsets, n_positions).expanded(shift_B)
    return batch.take(order_B, batch.history_T[torch.arange(n_positions) + shift_T], offsets)
