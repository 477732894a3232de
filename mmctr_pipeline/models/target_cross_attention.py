"""The leaders' model: DIN beside layers in which the target asks its history."""

import torch

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.config import TargetCrossAttentionConfig
from mmctr_pipeline.models.din import din_attention
from mmctr_pipeline.models.feature_spec import FeatureSpec
from mmctr_pipeline.models.features import FeatureEmbedding
from mmctr_pipeline.models.initialisation import initialise
from mmctr_pipeline.models.layers.target_query import TargetQueryEncoder
from mmctr_pipeline.models.layers.tower import tower


class TargetCrossAttentionModel(CtrModel):
    """DIN (arXiv 1706.06978) and a target-query encoder (after arXiv 1706.03762) in one tower.

    The form of the challenge's best systems, tolive666 and jiyuqian: context features, the target,
    the history weighed by DIN's attention, and what the encoder makes of the target, go into one
    tower with BatchNorm.
    """

    def __init__(self, config: TargetCrossAttentionConfig, spec: FeatureSpec) -> None:
        super().__init__()
        self.features = FeatureEmbedding(config.features, spec)
        dim = self.features.item_dim
        self.attention = din_attention(dim, config)
        self.encoder = TargetQueryEncoder(
            dim,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            feed_forward_dim=config.feed_forward_dim,
            max_history=config.features.max_history,
            dropout=config.attention_dropout,
        )
        input_dim = 3 * dim + self.features.context_dim
        self.tower = tower(input_dim, config.hidden_dims, config.dropout)
        initialise(self)

    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Fit the features on the items and the train rows."""
        self.features.fit(items, train, histories)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        features = self.features(batch)
        target_BD, history_TD = features.item_BD, features.history_TD
        interest_BD = self.attention(target_BD, history_TD, batch.history_offsets)
        answer_BD = self.encoder(target_BD, history_TD, batch.history_offsets)
        input_BF = torch.cat([features.context_BC, target_BD, interest_BD, answer_BD], dim=1)
        return self.tower(input_BF).squeeze(-1)
