"""QIN, second of the challenge: ReLU target attention and a quadratic network."""

import torch
from torch import nn

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.config import QinConfig
from mmctr_pipeline.models.feature_spec import FeatureSpec
from mmctr_pipeline.models.features import FeatureEmbedding
from mmctr_pipeline.models.initialisation import initialise
from mmctr_pipeline.models.layers.exact import ExactLinear
from mmctr_pipeline.models.layers.quadratic import QuadraticBlock
from mmctr_pipeline.models.layers.target_attention import ReluTargetAttention


class Qin(CtrModel):
    """Quadratic interest network, Li et al. 2025, arXiv 2504.17699.

    The target attends to the history by ReLU weights and is added to what it finds. Context
    features, the target and that sum go through quadratic layers with residual, BatchNorm and
    PReLU, and a last linear layer.
    """

    def __init__(self, config: QinConfig, spec: FeatureSpec) -> None:
        super().__init__()
        self.features = FeatureEmbedding(config.features, spec)
        self.attention = ReluTargetAttention(self.features.item_dim)
        dim = self.features.context_dim + 2 * self.features.item_dim
        self.quadratic = nn.Sequential(
            *(
                QuadraticBlock(
                    dim, config.n_rows, dropout=config.dropout, row_dropout=config.row_dropout
                )
                for _ in range(config.n_layers)
            )
        )
        self.output = ExactLinear(dim, 1)
        initialise(self)

    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Fit the features on the items and the train rows."""
        self.features.fit(items, train, histories)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        features = self.features(batch)
        found_BD = self.attention(features.item_BD, features.history_TD, batch.history_offsets)
        interest_BD = found_BD + features.item_BD
        input_BF = torch.cat([features.context_BC, features.item_BD, interest_BD], dim=1)
        return self.output(self.quadratic(input_BF)).squeeze(-1)
