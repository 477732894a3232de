"""DIN with semantic ids: learned embeddings of codes of the items' vectors."""

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import initialise
from mmctr_pipeline.models.batch import Batch, FeatureSpec, ItemFeatures, gathered
from mmctr_pipeline.models.config import DinSemanticIdsConfig, kinds_switched_on
from mmctr_pipeline.models.feature_model import FeatureModel
from mmctr_pipeline.models.layers.attention import TargetAttention
from mmctr_pipeline.models.layers.dense import tower
from mmctr_pipeline.models.layers.embedding import EmbeddingTable, distinct_rows, known_rows
from mmctr_pipeline.models.layers.one_history import pairs_of
from mmctr_pipeline.models.layers.residual_quantisation import ResidualQuantiser
from mmctr_pipeline.settings import SettingsError


class DinSemanticIds(FeatureModel):
    """DIN (arXiv 1706.06978) with the mean embedding of an item's codes beside its features.

    After QVQ of the WWW 2025 MMCTR challenge, which found that DIN learns faster from discrete
    codes of titles and covers than from the vectors. QVQ's codes come from an autoencoder, ours
    from residual quantisation, as is usual for semantic ids (arXiv 2306.08121).
    """

    shares_one_history = True

    def __init__(self, config: DinSemanticIdsConfig, spec: FeatureSpec) -> None:
        """Raise `ValueError` if no item has a vector to encode."""
        super().__init__(config, spec)
        self.semantic_ids = SemanticIds(config, spec)
        item_dim = self.features.item_dim + config.features.embedding_dim
        self.attention = TargetAttention(item_dim, config)
        input_dim = 2 * item_dim + self.features.context_dim
        self.tower = tower(input_dim, config.hidden_dims, config.dropout)
        initialise(self)

    can_start_warm = False  # Codes are fitted to the data, so old embeddings would not match.

    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Fit features and codes on the items, and record the ids of the train rows."""
        super().fit_statistics(items, train, histories)
        self.semantic_ids.fit(items)
        self.semantic_ids.record_trained(self.features.known_items)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        features = self.features(batch)
        codes_ND = self.semantic_ids(torch.cat([batch.item_id_B, batch.history_T]), batch.items)
        codes_BD, codes_TD = codes_ND.split([batch.n_rows, batch.history_T.shape[0]])
        item_BD = torch.cat([features.item_BD, codes_BD], dim=1)
        history_TD = torch.cat([features.history_TD, codes_TD], dim=1)
        interest_BD = self.attention(item_BD, history_TD, pairs_of(batch))
        input_BF = torch.cat([item_BD, interest_BD, features.context_BC], dim=1)
        return self.with_users(self.tower(input_BF).squeeze(-1), features)


class SemanticIds(nn.Module):
    """The mean of the learned embeddings of an item's codes, `n_levels` of them for each vector.

    Each level of each kind of vector has its own rows in one table, whose row 0 means "no vector".
    Items newer than the training get the codes that the stored centroids assign to their vectors.
    """

    codes_IC: torch.Tensor

    def __init__(self, config: DinSemanticIdsConfig, spec: FeatureSpec) -> None:
        super().__init__()
        configured = kinds_switched_on(config, "codes")
        kinds = [kind for kind in configured if spec.dim_of(kind)]
        if not kinds:
            raise SettingsError(
                "no item has a vector of a kind to encode as semantic ids (configured: "
                f"{', '.join(configured) or 'none'}); set fused_codes, text_codes or image_codes "
                "for vectors that exist"
            )
        self._n_codes, self._seed = config.n_codes, config.code_seed
        self.quantisers = nn.ModuleDict(
            {k: ResidualQuantiser(spec.dim_of(k), config.n_levels, config.n_codes) for k in kinds}
        )
        n_places = len(kinds) * config.n_levels
        self.table = EmbeddingTable(1 + n_places * config.n_codes, config.features.embedding_dim)
        self.register_buffer("codes_IC", torch.zeros(spec.n_items, n_places, dtype=torch.int64))

    def fit(self, items: ItemFeatures) -> None:
        """Fit the centroids to the items that have a vector, and encode the items."""
        for kind, quantiser in self.quantisers.items():
            assert isinstance(quantiser, ResidualQuantiser)
            vectors_ID, present_I = items.vectors_of(kind)
            quantiser.fit(vectors_ID[present_I], self._seed)
        self.codes_IC.copy_(self._encoded(items, 0)[: len(self.codes_IC)])

    def record_trained(self, known_items: np.ndarray) -> None:
        """Record the codes of items in train rows; all other codes read the mean of these rows."""
        self.table.record_trained(self.codes_IC.cpu().numpy()[known_items].ravel())

    def forward(self, ids_N: torch.Tensor, items: ItemFeatures) -> torch.Tensor:
        """Return `(N, D)` for item ids `(N,)`; zero for padding and items without a vector."""
        codes_IC = self.codes_IC
        if items.present_I.shape[0] > codes_IC.shape[0]:
            codes_IC = torch.cat([codes_IC, self._encoded(items, codes_IC.shape[0])])
        id_U, slot_N = distinct_rows(known_rows(ids_N, codes_IC.shape[0]))
        return gathered(self.table.mean(codes_IC[id_U]), slot_N)

    def _encoded(self, items: ItemFeatures, first: int) -> torch.Tensor:
        """Return the table rows of the codes of items from `first` on; 0 if there is no vector."""
        encoded = []
        for kind, quantiser in self.quantisers.items():
            vectors_ID, present_I = items.vectors_of(kind)
            codes_IL = quantiser(vectors_ID[first:])
            encoded.append(torch.where(present_I[first:, None], codes_IL + 1, 0))
        codes_IC = torch.cat(encoded, dim=1)
        place_C = torch.arange(codes_IC.shape[1], device=codes_IC.device)
        return torch.where(codes_IC > 0, codes_IC + place_C * self._n_codes, 0)
