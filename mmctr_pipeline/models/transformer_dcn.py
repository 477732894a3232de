"""Transformer_DCN, the challenge's first place and recipe B: a transformer, then DCNv2."""

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.config import TransformerDcnConfig
from mmctr_pipeline.models.feature_spec import FeatureSpec
from mmctr_pipeline.models.features import FeatureEmbedding
from mmctr_pipeline.models.initialisation import initialise
from mmctr_pipeline.models.layers.cross_network import CrossNetwork
from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.models.layers.exact import ExactLinear
from mmctr_pipeline.models.layers.padded import to_padded
from mmctr_pipeline.models.layers.segments import (
    Segments,
    rows_of_positions,
    segment_max,
    spread,
)
from mmctr_pipeline.models.layers.staircase import Staircase, staircase_linear
from mmctr_pipeline.models.layers.transformer import TransformerEncoder


class TransformerDcn(CtrModel):
    """Transformer over `[history item, target]`, its newest positions and their maximum to DCNv2.

    arXiv 2505.03543 and arXiv 2504.17699; DCNv2: Wang et al. 2021, arXiv 2008.13535. Cross network
    and tower see, side by side, the encoded newest positions (zero where there is none), the
    projected maximum over all positions (that of zero for an empty history), target and context
    features; a last network joins what they return.

    Most histories are shorter than the positions kept, and DCNv2 is by far the most of the work.
    On CPUs rows are therefore sorted by length, and zeros are left out (`staircase`).
    """

    def __init__(self, config: TransformerDcnConfig, spec: FeatureSpec) -> None:
        """Raise `ValueError` where tower or last network has no hidden layer, or heads do not fit.

        `n_heads` must divide twice the width of the item features.
        """
        super().__init__()
        if not config.hidden_dims or not config.head_hidden_dims:
            raise ValueError(
                "transformer_dcn needs a hidden layer in hidden_dims and in head_hidden_dims; name "
                "its number of units"
            )
        self.features = FeatureEmbedding(config.features, spec)
        pair_dim = 2 * self.features.item_dim
        self.encoder = TransformerEncoder(
            pair_dim,
            config.transformer_layers,
            config.n_heads,
            config.feed_forward_dim,
            config.transformer_dropout,
        )
        self.pooled = nn.Linear(pair_dim, pair_dim)
        self._always_dim = pair_dim + self.features.item_dim + self.features.context_dim
        input_dim = config.kept_positions * pair_dim + self._always_dim
        self.cross = CrossNetwork(input_dim, config.cross_layers)
        self.deep_first = nn.Linear(input_dim, config.hidden_dims[0])
        self.deep = _after_linear(config.hidden_dims, config.dropout)
        deep_dim, head_dims = config.hidden_dims[-1], config.head_hidden_dims
        self.head_first = nn.Linear(deep_dim + input_dim, head_dims[0])
        self.head = _after_linear(head_dims, 0.0)
        self.logit = ExactLinear(head_dims[-1], 1)
        self._kept_positions = config.kept_positions
        self._max_history = config.features.max_history
        initialise(self)

    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Fit the features on the items and the train rows."""
        self.features.fit(items, train, histories)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        if batch.item_id_B.device.type != "cpu":
            return self._logits(batch, None)
        length_B = batch.history_offsets.diff()
        order_B = length_B.argsort(descending=True, stable=True)
        kept = length_B[order_B].clamp_max(self._kept_positions).tolist()
        pair_dim = 2 * self.features.item_dim
        stairs = Staircase.of([self._always_dim + pair_dim * n for n in kept])
        return self._logits(_reordered(batch, order_B), stairs)[order_B.argsort()]

    def _logits(self, batch: Batch, stairs: Staircase | None) -> torch.Tensor:
        features, offsets = self.features(batch), batch.history_offsets
        segments = Segments.of(offsets, len(batch.history_T))
        pair_TD = torch.cat([features.history_TD, spread(features.item_BD, segments)], dim=1)
        encoded_TD = self.encoder(pair_TD, offsets, self._max_history)
        newest_BKD = to_padded(encoded_TD, offsets, self._kept_positions)
        pooled_BD = self.pooled(segment_max(encoded_TD, segments))
        parts = [newest_BKD.flatten(1), pooled_BD, features.item_BD, features.context_BC]
        input_BF = torch.cat(parts, dim=1)

        if stairs is None:
            stairs = Staircase.full(*input_BF.shape)
        first, last = self.deep_first, self.head_first
        deep_BH = self.deep(staircase_linear(input_BF, first.weight, first.bias, stairs))
        crossed_BF = self.cross(input_BF, stairs)
        # One linear layer over both, the part of each where it can be left out.
        of_deep_HD, of_crossed_HF = last.weight.split([deep_BH.shape[1], crossed_BF.shape[1]], 1)
        joined_BH = functional.linear(deep_BH, of_deep_HD, last.bias)
        joined_BH = joined_BH + staircase_linear(crossed_BF, of_crossed_HF, None, stairs)
        return self.logit(self.head(joined_BH)).squeeze(-1)


def _after_linear(dims: Sequence[int], dropout: float) -> nn.Sequential:
    """Return what follows the first linear layer of a network with hidden layers of `dims`."""
    layers: list[nn.Module] = [nn.ReLU(), Dropout(dropout)]
    for in_dim, out_dim in itertools.pairwise(dims):
        layers += [nn.Linear(in_dim, out_dim), nn.ReLU(), Dropout(dropout)]
    return nn.Sequential(*layers)


def _reordered(batch: Batch, order_B: torch.Tensor) -> Batch:
    """Return the rows of `batch` in another order, without spare positions."""
    lengths_B = batch.history_offsets.diff()[order_B]
    offsets = torch.cat([lengths_B.new_zeros(1), lengths_B.cumsum(0)])
    n_positions = int(offsets[-1])
    row_T = rows_of_positions(offsets, n_positions)
    moved_B = batch.history_offsets[:-1][order_B] - offsets[:-1]
    return dataclasses.replace(
        batch,
        user_id_B=batch.user_id_B[order_B],
        item_id_B=batch.item_id_B[order_B],
        likes_level_B=batch.likes_level_B[order_B],
        views_level_B=batch.views_level_B[order_B],
        history_T=batch.history_T[torch.arange(n_positions) + moved_B[row_T]],
        history_offsets=offsets,
        label_B=None,
    )
