"""Feature vectors of a batch's targets, histories and context, as configured.

Ids without train rows, such as cold items and new users, share one learned row, the unknown row.
Training uses it for a share of the known ids, so that it is learned.
"""

import dataclasses

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, DistinctItems, FeatureSpec, ItemFeatures
from mmctr_pipeline.models.config import FeatureConfig, FeatureModelSettings, kinds_switched_on
from mmctr_pipeline.models.layers.embedding import EmbeddingTable, distinct_rows, known_rows
from mmctr_pipeline.models.layers.vector_inputs import VectorProjection, VectorScaling


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of a batch of B rows and T positions, `float32`.

    Under autocast the item features have its number format if `projection_dim` is set.

    `item_BD` are those of the target items, `history_TD` the same of the history items;
    `context_BC` are those of user and row, of width 0 if none is configured. `items` are the
    distinct items of targets and histories.
    """

    item_BD: torch.Tensor
    history_TD: torch.Tensor
    context_BC: torch.Tensor
    items: DistinctItems


class FeatureEmbedding(nn.Module):
    """Looks up and joins the configured features; `item_dim` and `context_dim` are their widths.

    Item features are, in this order, the embedding of the id, the mean embedding of the tags, the
    embeddings of likes level and views level, and the fused, title and cover vectors, each
    standardised or, with `vector_projection`, times a learned matrix. Context features are the
    embeddings of the user and of the row's two levels. Kinds of vectors that no item has are left
    out. With `projection_dim` a linear layer maps the item features to that width. Otherwise zeros
    pad them to a multiple of `multiple_of`: the width of fused vectors depends on the rank of the
    data, and the attention heads must divide it. Raises `ValueError` if no item feature is left.
    """

    known_items_I: torch.Tensor
    known_users_U: torch.Tensor

    def __init__(self, config: FeatureConfig, spec: FeatureSpec, multiple_of: int = 1) -> None:
        super().__init__()
        dim = config.embedding_dim
        self._kinds = [k for k in kinds_switched_on(config, "vectors") if spec.dim_of(k)]
        self._unknown_rate = config.unknown_rate
        self._max_history = config.max_history

        def levels(is_wanted: bool) -> nn.Embedding | None:
            return nn.Embedding(spec.n_levels, config.level_embedding_dim) if is_wanted else None

        self.item_id = EmbeddingTable(spec.n_items + 1, dim) if config.item_id else None
        self.tags = EmbeddingTable(spec.n_tags, dim) if config.item_tags else None
        self.item_likes = levels(config.item_levels)
        self.item_views = levels(config.item_levels)
        vector_layer = VectorProjection if config.vector_projection else VectorScaling
        self.vector_layers = nn.ModuleDict({k: vector_layer(spec.dim_of(k)) for k in self._kinds})
        self.user_id = EmbeddingTable(spec.n_users + 1, dim) if config.user_id else None
        self.row_likes = levels(config.context_levels)
        self.row_views = levels(config.context_levels)
        # Before `fit` all ids count as known.
        self.register_buffer("known_items_I", torch.ones(spec.n_items, dtype=torch.bool))
        self.register_buffer("known_users_U", torch.ones(spec.n_users, dtype=torch.bool))

        self.item_dim = _width(self.item_id, self.tags, self.item_likes, self.item_views)
        self.item_dim += sum(spec.dim_of(kind) for kind in self._kinds)
        if self.item_dim == 0:
            raise ValueError(
                "no item feature is configured, or no item has the configured vectors; set "
                "features.item_id, item_tags, item_levels, or vectors that the items have"
            )
        self.projection = None
        self._n_zeros = 0
        if config.projection_dim:
            self.projection = nn.Linear(self.item_dim, config.projection_dim)
            self.item_dim = config.projection_dim
        else:
            self._n_zeros = -self.item_dim % multiple_of
            self.item_dim += self._n_zeros
        self.context_dim = _width(self.user_id, self.row_likes, self.row_views)

    def fit(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Record which ids the train rows hold, and the statistics of the item vectors."""
        for kind in self._kinds:
            if isinstance(layer := self.vector_layers[kind], VectorScaling):
                layer.fit(*items.vectors_of(kind))
        read = histories.take(np.unique(train.history)).newest(self._max_history).values
        item_ids = np.concatenate([train.item_id, read])
        for known, ids in ((self.known_items_I, item_ids), (self.known_users_U, train.user_id)):
            known.fill_(False)
            known[torch.from_numpy(ids.astype(np.int64)).to(known.device)] = True

    def forward(self, batch: Batch) -> Features:
        """Return the features of the batch, whose rows must not share histories."""
        items = self._distinct(batch)
        features_UD = self._item_features(items.item_U, items.row_U, batch.items)
        item_BD, history_TD = items.at_places(features_UD)
        return Features(item_BD, history_TD, self._context(batch), items)

    def _distinct(self, batch: Batch) -> DistinctItems:
        ids_N = torch.cat([batch.item_id_B, batch.history_T])
        unknown = len(self.known_items_I)
        row_N = self._rows(ids_N, self.known_items_I)
        key_U, slot_N = distinct_rows(ids_N * 2 + (row_N == unknown).long())
        item_U = key_U // 2
        row_U = torch.where(key_U % 2 == 1, unknown, item_U)
        return DistinctItems(item_U, row_U, slot_N, len(batch))

    def _rows(self, ids: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Return the table rows of ids: the id, 0 for padding, or the last row, the unknown one."""
        within = ids < len(known)
        is_known = within & known[torch.where(within, ids, 0)]
        if self.training and self._unknown_rate > 0:
            is_known &= torch.rand(ids.shape, device=ids.device) >= self._unknown_rate
        return torch.where(is_known | (ids == 0), ids, len(known))

    def _item_features(
        self, item_U: torch.Tensor, row_U: torch.Tensor, items: ItemFeatures
    ) -> torch.Tensor:
        # An item newer than the id table may still have tags, levels and vectors.
        listed_U = known_rows(item_U, len(items.present_I))
        parts = []
        if self.item_id is not None:
            parts.append(self.item_id(row_U))
        if self.tags is not None:
            tags_UK = known_rows(items.tags_IK[listed_U], self.tags.num_embeddings)
            parts.append(mean_embedding(self.tags, tags_UK))
        if self.item_likes is not None and self.item_views is not None:
            parts.append(self.item_likes(items.likes_level_I[listed_U]))
            parts.append(self.item_views(items.views_level_I[listed_U]))
        for kind in self._kinds:
            vectors_ID, present_I = items.vectors_of(kind)
            parts.append(self.vector_layers[kind](vectors_ID[listed_U], present_I[listed_U]))
        if self._n_zeros:
            parts.append(parts[0].new_zeros(len(listed_U), self._n_zeros))
        features_UD = torch.cat(parts, dim=1)
        return features_UD if self.projection is None else self.projection(features_UD)

    def _context(self, batch: Batch) -> torch.Tensor:
        parts = [torch.zeros(len(batch), 0, device=batch.item_id_B.device)]
        if self.user_id is not None:
            parts.append(self.user_id(self._rows(batch.user_id_B, self.known_users_U)))
        if self.row_likes is not None and self.row_views is not None:
            parts.append(self.row_likes(batch.likes_level_B))
            parts.append(self.row_views(batch.views_level_B))
        return torch.cat(parts, dim=1)


class FeatureModel(CtrModel):
    """A model that reads its batch through `FeatureEmbedding`, with that class's parameters."""

    def __init__(
        self, config: FeatureModelSettings, spec: FeatureSpec, multiple_of: int = 1
    ) -> None:
        super().__init__()
        self.features = FeatureEmbedding(config.features, spec, multiple_of)

    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Fit the features on the items and the train rows."""
        self.features.fit(items, train, histories)


def mean_embedding(table: EmbeddingTable, rows_UK: torch.Tensor) -> torch.Tensor:
    """Return the mean of each item's rows of a table `(U, D)`, row 0 excluded; zero for none."""
    n_rows_U = (rows_UK != 0).sum(1).clamp_min(1)
    return table(rows_UK).sum(1) / n_rows_U.unsqueeze(1)


def _width(*tables: nn.Embedding | None) -> int:
    return sum(table.embedding_dim for table in tables if table is not None)
