"""The features of a batch as vectors: target items, histories, context, by configuration.

Ids that no train row holds, such as cold items and new users, share one learned row, the unknown
row. It is trained by taking it for known ids now and then.
"""

import dataclasses

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.config import FeatureConfig
from mmctr_pipeline.models.feature_spec import FeatureSpec
from mmctr_pipeline.models.layers.distinct_items import DistinctItems
from mmctr_pipeline.models.layers.embedding import EmbeddingTable, distinct_rows, known_rows
from mmctr_pipeline.models.layers.item_vectors import VectorProjection, VectorScaling

VECTOR_KINDS = ("fused", "text", "image")


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of a batch of B rows and T positions, `float32`.

    Under autocast those of items are in its number format where `projection_dim` is set.

    `item_BD` are those of the target items and `history_TD` those of the histories, alike;
    `context_BC` those of user and row, of width 0 where there are none. `items` are the distinct
    items behind the first two.
    """

    item_BD: torch.Tensor
    history_TD: torch.Tensor
    context_BC: torch.Tensor
    items: DistinctItems


class FeatureEmbedding(nn.Module):
    """Looks up and joins what `FeatureConfig` names; `item_dim` and `context_dim` are the widths.

    Item features are, in this order and as far as they are configured, the embedding of the id,
    the mean embedding of the tags, the embeddings of likes level and views level, and the fused,
    title and cover vectors, each standardised or, with `vector_projection`, times a learned matrix;
    context features are the embeddings of the user and of the row's two levels. Vectors that no
    item has are left out. With `projection_dim` a linear layer takes the item features to that
    width. Raises `ValueError` where no feature of the items is left.
    """

    known_items_I: torch.Tensor
    known_users_U: torch.Tensor

    def __init__(self, config: FeatureConfig, spec: FeatureSpec) -> None:
        super().__init__()
        dim, level_dim = config.embedding_dim, config.level_embedding_dim
        wanted = {
            "fused": config.fused_vectors,
            "text": config.text_vectors,
            "image": config.image_vectors,
        }
        self._kinds = [kind for kind in VECTOR_KINDS if wanted[kind] and spec.dim_of(kind)]
        self._unknown_rate = config.unknown_rate
        self._max_history = config.max_history
        self._n_items, self._n_users = spec.n_items, spec.n_users
        self.item_id = EmbeddingTable(spec.n_items + 1, dim) if config.item_id else None
        self.tags = EmbeddingTable(spec.n_tags, dim) if config.item_tags else None
        self.item_likes = self._levels(config.item_levels, spec, level_dim)
        self.item_views = self._levels(config.item_levels, spec, level_dim)
        vector_layer = VectorProjection if config.vector_projection else VectorScaling
        self.vector_layers = nn.ModuleDict(
            {kind: vector_layer(spec.dim_of(kind)) for kind in self._kinds}
        )
        self.user_id = EmbeddingTable(spec.n_users + 1, dim) if config.user_id else None
        self.row_likes = self._levels(config.context_levels, spec, level_dim)
        self.row_views = self._levels(config.context_levels, spec, level_dim)
        # All ids count as known until `fit` says better.
        self.register_buffer("known_items_I", torch.ones(spec.n_items, dtype=torch.bool))
        self.register_buffer("known_users_U", torch.ones(spec.n_users, dtype=torch.bool))

        self.item_dim = _width(self.item_id, self.tags, self.item_likes, self.item_views)
        self.item_dim += sum(spec.dim_of(kind) for kind in self._kinds)
        if self.item_dim == 0:
            raise ValueError(
                "no feature of the items is configured, or no item has the vectors that are; set "
                "features.item_id, item_tags, item_levels, or vectors that there are"
            )
        self.projection = None
        if config.projection_dim:
            self.projection = nn.Linear(self.item_dim, config.projection_dim)
            self.item_dim = config.projection_dim
        self.context_dim = _width(self.user_id, self.row_likes, self.row_views)

    @staticmethod
    def _levels(wanted: bool, spec: FeatureSpec, dim: int) -> nn.Embedding | None:
        return nn.Embedding(spec.n_levels, dim) if wanted else None

    def fit(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Note which ids the train rows show, and what the item vectors vary by."""
        for kind in self._kinds:
            if isinstance(layer := self.vector_layers[kind], VectorScaling):
                layer.fit(*items.vectors_of(kind))
        of_train = histories.take(np.unique(train.history)).newest(self._max_history).values
        known_items = np.zeros(self._n_items, bool)
        known_items[np.concatenate([train.item_id, of_train])] = True
        known_users = np.zeros(self._n_users, bool)
        known_users[train.user_id] = True
        self.known_items_I.copy_(torch.from_numpy(known_items))
        self.known_users_U.copy_(torch.from_numpy(known_users))

    def forward(self, batch: Batch) -> Features:
        """Return the features of the batch, whose rows must not share histories."""
        items = self._distinct(batch)
        features_UD = self._item_features(items.item_U, items.row_U, batch.items)
        item_BD, history_TD = items.placed(features_UD)
        return Features(item_BD, history_TD, self._context(batch), items)

    def _distinct(self, batch: Batch) -> DistinctItems:
        ids_N = torch.cat([batch.item_id_B, batch.history_T])
        row_N = self._rows(ids_N, self.known_items_I)
        key_U, slot_N = distinct_rows(ids_N * 2 + (row_N == self._n_items).long())
        item_U = key_U // 2
        row_U = torch.where(key_U % 2 == 1, self._n_items, item_U)
        return DistinctItems(item_U, row_U, slot_N, len(batch))

    def _rows(self, ids: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Return the table rows of ids: the id, 0 for padding, or the unknown row, the last."""
        within = ids < len(known)
        is_known = within & known[torch.where(within, ids, 0)]
        if self.training and self._unknown_rate > 0:
            is_known &= torch.rand(ids.shape, device=ids.device) >= self._unknown_rate
        return torch.where(is_known | (ids == 0), ids, len(known))

    def _item_features(
        self, item_U: torch.Tensor, row_U: torch.Tensor, items: ItemFeatures
    ) -> torch.Tensor:
        # An item beyond the item table of training may well have tags, levels and vectors.
        listed_U = known_rows(item_U, len(items.present_I))
        parts = []
        if self.item_id is not None:
            parts.append(self.item_id(row_U))
        if self.tags is not None:
            parts.append(_mean_of_tags(self.tags, items.tags_IK[listed_U]))
        if self.item_likes is not None and self.item_views is not None:
            parts.append(self.item_likes(items.likes_level_I[listed_U]))
            parts.append(self.item_views(items.views_level_I[listed_U]))
        for kind in self._kinds:
            vectors_ID, present_I = items.vectors_of(kind)
            parts.append(self.vector_layers[kind](vectors_ID[listed_U], present_I[listed_U]))
        features_UD = torch.cat(parts, dim=1)
        return features_UD if self.projection is None else self.projection(features_UD)

    def _context(self, batch: Batch) -> torch.Tensor:
        parts = []
        if self.user_id is not None:
            parts.append(self.user_id(self._rows(batch.user_id_B, self.known_users_U)))
        if self.row_likes is not None and self.row_views is not None:
            parts.append(self.row_likes(batch.likes_level_B))
            parts.append(self.row_views(batch.views_level_B))
        if not parts:
            return torch.zeros(len(batch), 0, device=batch.item_id_B.device)
        return torch.cat(parts, dim=1)


def _width(*tables: nn.Embedding | None) -> int:
    return sum(table.embedding_dim for table in tables if table is not None)


def _mean_of_tags(table: EmbeddingTable, tags_UK: torch.Tensor) -> torch.Tensor:
    """Return the mean row of each item's tags `(U, D)`; zero where it has none."""
    tags_UK = known_rows(tags_UK, table.num_embeddings)
    n_tags_U = (tags_UK != 0).sum(1).clamp_min(1)
    return table(tags_UK).sum(1) / n_tags_U.unsqueeze(1)
