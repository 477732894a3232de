"""A custom model: the target's features beside those of the item clicked last."""

import dataclasses

import torch

from mmctr_pipeline.models.base import initialise
from mmctr_pipeline.models.batch import Batch, FeatureSpec
from mmctr_pipeline.models.config import TowerSettings
from mmctr_pipeline.models.feature_model import FeatureModel
from mmctr_pipeline.models.layers.dense import tower
from mmctr_pipeline.models.layers.padded import to_padded
from mmctr_pipeline.settings import setting


@dataclasses.dataclass(frozen=True)
class LastItemSettings(TowerSettings):
    n_items: int = setting(1, "newest history items that the tower reads", ge=1, le=64)


class LastItem(FeatureModel):
    Config = LastItemSettings

    def __init__(self, config: LastItemSettings, spec: FeatureSpec) -> None:
        super().__init__(config, spec)
        self._n_items = config.n_items
        width = (1 + config.n_items) * self.features.item_dim + self.features.context_dim
        self.tower = tower(width, config.hidden_dims, config.dropout)
        initialise(self)

    def forward(self, batch: Batch) -> torch.Tensor:
        found = self.features(batch)
        newest = to_padded(found.history_TD, batch.history_offsets, self._n_items)
        joined = torch.cat([found.item_BD, newest.flatten(1), found.context_BC], dim=1)
        return self.with_users(self.tower(joined).squeeze(-1), found)
