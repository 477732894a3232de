"""Base of the models that read their batch through `FeatureEmbedding`."""

import torch
from torch import nn

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import FeatureSpec, ItemFeatures
from mmctr_pipeline.models.config import FeatureModelSettings
from mmctr_pipeline.models.features import FeatureEmbedding, Features


class FeatureModel(CtrModel):
    """A model that reads its batch through `FeatureEmbedding`, which explains the arguments."""

    def __init__(
        self, config: FeatureModelSettings, spec: FeatureSpec, multiple_of: int = 1
    ) -> None:
        super().__init__()
        self.features = FeatureEmbedding(config.features, spec, multiple_of)
        n_rates = self.features.rates.n_rates
        self.rate_weight_R = nn.Parameter(torch.ones(n_rates)) if n_rates else None

    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Fit the features on the items and the train rows."""
        self.features.fit(items, train, histories)

    def with_users(self, logits_B: torch.Tensor, features: Features) -> torch.Tensor:
        """Return the logits plus those of the factors and of the click rates.

        The logits of the click rates have learned weights that begin at 1. So a model begins as the
        sum of the configured click rates, as logits, and learns what to add.
        """
        if features.factor_logit_B is not None:
            logits_B = logits_B + features.factor_logit_B
        if self.rate_weight_R is None:
            return logits_B
        return logits_B + (features.rate_logits_BR * self.rate_weight_R).sum(1)
