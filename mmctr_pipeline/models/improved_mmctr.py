"""Recipe A's model: ids, attention-pooled history, levels, multimodal vector, two interactions."""

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel, initialise
from mmctr_pipeline.models.batch import Batch, FeatureSpec, ItemFeatures
from mmctr_pipeline.models.config import ImprovedMmctrConfig
from mmctr_pipeline.models.layers.attention import AttentionPooling
from mmctr_pipeline.models.layers.bilinear import BilinearInteraction
from mmctr_pipeline.models.layers.dense import tower
from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.models.layers.embedding import EmbeddingTable, ValueTable, known_rows
from mmctr_pipeline.models.layers.segments import Segments
from mmctr_pipeline.models.layers.vector_inputs import VectorScaling


class ImprovedMmctr(CtrModel):
    """`ImprovedMMCTRModel` of recipe A, a public notebook of the WWW 2025 MMCTR challenge.

    It has 70,802,562 parameters at the size of MicroLens_1M_x1. Tables and linear layers are
    initialised Xavier-normal with zero biases; bilinear layers keep torch's initialisation.

    There is no unknown row, as the number of parameters is fixed. Values that no train row holds
    read the mean of the trained rows. History items beyond the item table are an exception: the
    attention ignores them. A target beyond the item table keeps its vector, if it has one.
    """

    shares_histories = True

    def __init__(self, config: ImprovedMmctrConfig, spec: FeatureSpec) -> None:
        super().__init__()
        dim, level_dim = config.embedding_dim, config.level_embedding_dim
        self.user_embedding = EmbeddingTable(spec.n_users, dim, rows_of="users")
        self.item_embedding = EmbeddingTable(spec.n_items, dim, rows_of="items")
        self.likes_embedding = ValueTable(spec.n_levels, level_dim)
        self.views_embedding = ValueTable(spec.n_levels, level_dim)
        self.vector_scaling = VectorScaling(spec.vector_dim)
        self.multimodal = nn.Sequential(
            nn.Linear(spec.vector_dim, config.multimodal_dim),
            nn.LayerNorm(config.multimodal_dim),
            nn.ReLU(),
            Dropout(config.multimodal_dropout),
        )
        self.history_pooling = AttentionPooling(dim, config.attention_dim)
        self.user_item = BilinearInteraction(dim, dim, dim)
        self.history_item = BilinearInteraction(dim, dim, dim)
        input_dim = 5 * dim + 2 * level_dim + config.multimodal_dim
        self.input_norm = nn.BatchNorm1d(input_dim)
        self.tower = tower(input_dim, config.hidden_dims, config.dropout)
        initialise(self, table_std=None)

    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Fit the standardisation of item vectors, and record which values the train rows hold."""
        self.vector_scaling.fit(items.vectors_ID, items.present_I)
        read = histories.take(np.unique(train.history)).values
        self.user_embedding.record_trained(train.user_id)
        self.item_embedding.record_trained(np.concatenate([train.item_id, read]))
        self.likes_embedding.record_trained(train.likes_level)
        self.views_embedding.record_trained(train.views_level)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return `multimodal` (the multimodal transform) and `main` (everything else)."""
        return self._with_group("multimodal", [self.multimodal])

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        user_U, user_row_B = batch.user_id_B, None
        if batch.history_row_B is not None:  # scoring in order: consecutive rows often share a user
            user_U, user_row_B = user_U.unique_consecutive(return_inverse=True)
        # One look-up for target and history: their rows are gathered, and updated, once.
        ids = torch.cat([batch.item_id_B, batch.history_T])
        rows = known_rows(ids, self.item_embedding.num_embeddings)
        item_BD, values_TD = self.item_embedding(rows).split(
            [batch.n_rows, batch.history_T.shape[0]]
        )
        item_BD = self.item_embedding.mean_beyond(item_BD, batch.item_id_B)
        segments = Segments.from_offsets(batch.history_offsets, values_TD.shape[0])
        is_known_T = rows[batch.n_rows :] != 0
        history_HD = self.history_pooling(values_TD, segments, is_known_T)
        user_UD = self.user_embedding.mean_beyond(self.user_embedding(user_U), user_U)
        user_item_BD = self.user_item(user_UD, item_BD, user_row_B)
        history_item_BD = self.history_item(history_HD, item_BD, batch.history_row_B)
        vector_row_B = known_rows(batch.item_id_B, batch.items.present_I.shape[0])
        vectors_BD, present_B = (table[vector_row_B] for table in batch.items.vectors_of("fused"))
        parts = [
            _at_rows(user_UD, user_row_B),
            item_BD,
            _at_rows(history_HD, batch.history_row_B),
            self.likes_embedding(batch.likes_level_B),
            self.views_embedding(batch.views_level_B),
            self.multimodal(self.vector_scaling(vectors_BD, present_B)),
            user_item_BD,
            history_item_BD,
        ]
        return self.tower(self.input_norm(torch.cat(parts, dim=1))).squeeze(-1)


def _at_rows(values_HD: torch.Tensor, row_B: torch.Tensor | None) -> torch.Tensor:
    """Return `values_HD[row_B[i]]` for each row i, `(B, D)`; `values_HD` itself if that is None."""
    return values_HD if row_B is None else values_HD.index_select(0, row_B)
