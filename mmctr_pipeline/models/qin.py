"""QIN, second in the challenge: ReLU target attention and a quadratic network."""

import torch
from torch import nn

from mmctr_pipeline.models.base import initialise
from mmctr_pipeline.models.batch import Batch, FeatureSpec
from mmctr_pipeline.models.config import QinConfig
from mmctr_pipeline.models.feature_model import FeatureModel
from mmctr_pipeline.models.layers.attention import ReluTargetAttention
from mmctr_pipeline.models.layers.dense import Float32Linear
from mmctr_pipeline.models.layers.one_history import pairs_of
from mmctr_pipeline.models.layers.quadratic import QuadraticBlock


class Qin(FeatureModel):
    """Quadratic interest network, Li et al. 2025, arXiv 2504.17699.

    The target attends to the history with ReLU weights, and the result is added to the target.
    Context features, the target and that sum go through quadratic layers with residual, BatchNorm
    and PReLU, and a final linear layer.
    """

    shares_one_history = True

    def __init__(self, config: QinConfig, spec: FeatureSpec) -> None:
        super().__init__(config, spec)
        self.attention = ReluTargetAttention(self.features.item_dim)
        dim = self.features.context_dim + 2 * self.features.item_dim
        block = dim, config.n_rows, config.dropout, config.row_dropout
        self.quadratic = nn.Sequential(*(QuadraticBlock(*block) for _ in range(config.n_layers)))
        self.output = Float32Linear(dim, 1)
        initialise(self)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        features = self.features(batch)
        found_BD = self.attention(features.item_BD, features.history_TD, pairs_of(batch))
        interest_BD = found_BD + features.item_BD
        input_BF = torch.cat([features.context_BC, features.item_BD, interest_BD], dim=1)
        return self.with_users(self.output(self.quadratic(input_BF)).squeeze(-1), features)
