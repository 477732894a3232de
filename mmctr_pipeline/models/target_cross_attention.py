"""The challenge leaders' model: DIN beside layers in which the target queries its history."""

import torch

from mmctr_pipeline.models.base import initialise
from mmctr_pipeline.models.batch import Batch, FeatureSpec
from mmctr_pipeline.models.config import TargetCrossAttentionConfig
from mmctr_pipeline.models.feature_model import FeatureModel
from mmctr_pipeline.models.layers.attention import TargetAttention
from mmctr_pipeline.models.layers.dense import tower
from mmctr_pipeline.models.layers.one_history import pairs_of
from mmctr_pipeline.models.layers.target_query import TargetQueryEncoder


class TargetCrossAttentionModel(FeatureModel):
    """DIN (arXiv 1706.06978) and a target-query encoder (after arXiv 1706.03762) in one tower.

    After the challenge's best systems, tolive666 and jiyuqian: context features, the target, the
    history weighted by DIN's attention, and the encoder's output for the target go into one tower
    with BatchNorm.
    """

    shares_one_history = True

    def __init__(self, config: TargetCrossAttentionConfig, spec: FeatureSpec) -> None:
        super().__init__(config, spec, multiple_of=config.n_heads)
        dim = self.features.item_dim
        self.attention = TargetAttention(dim, config)
        self.encoder = TargetQueryEncoder(dim, config)
        input_dim = 3 * dim + self.features.context_dim
        self.tower = tower(input_dim, config.hidden_dims, config.dropout)
        initialise(self)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        features, segments = self.features(batch), pairs_of(batch)
        target_BD, history_TD = features.item_BD, features.history_TD
        interest_BD = self.attention(target_BD, history_TD, segments)
        answer_BD = self.encoder(target_BD, history_TD, segments)
        input_BF = torch.cat([features.context_BC, target_BD, interest_BD, answer_BD], dim=1)
        return self.with_users(self.tower(input_BF).squeeze(-1), features)
