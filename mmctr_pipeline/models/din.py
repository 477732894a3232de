"""DIN, the challenge's baseline: history items are weighted by their relation to the target."""

import torch

from mmctr_pipeline.models.base import initialise
from mmctr_pipeline.models.batch import Batch, FeatureSpec
from mmctr_pipeline.models.config import DinConfig
from mmctr_pipeline.models.feature_model import FeatureModel
from mmctr_pipeline.models.layers.attention import TargetAttention
from mmctr_pipeline.models.layers.dense import tower
from mmctr_pipeline.models.layers.one_history import pairs_of


class Din(FeatureModel):
    """Deep interest network, Zhou et al. 2018, arXiv 1706.06978.

    Target features, the history's features weighted by the target, and context features go into one
    tower with BatchNorm.
    """

    shares_one_history = True

    def __init__(self, config: DinConfig, spec: FeatureSpec) -> None:
        super().__init__(config, spec)
        self.attention = TargetAttention(self.features.item_dim, config)
        input_dim = 2 * self.features.item_dim + self.features.context_dim
        self.tower = tower(input_dim, config.hidden_dims, config.dropout)
        initialise(self)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        features = self.features(batch)
        interest_BD = self.attention(features.item_BD, features.history_TD, pairs_of(batch))
        input_BF = torch.cat([features.item_BD, interest_BD, features.context_BC], dim=1)
        return self.with_users(self.tower(input_BF).squeeze(-1), features)
