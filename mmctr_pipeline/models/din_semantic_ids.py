"""DIN that knows items by semantic ids too: learned embeddings of codes of their vectors."""

import torch
from torch import nn

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.config import DinSemanticIdsConfig
from mmctr_pipeline.models.din import din_attention
from mmctr_pipeline.models.feature_spec import FeatureSpec
from mmctr_pipeline.models.features import FeatureEmbedding
from mmctr_pipeline.models.initialisation import initialise
from mmctr_pipeline.models.layers.embedding import EmbeddingTable, distinct_rows, known_rows
from mmctr_pipeline.models.layers.residual_quantisation import ResidualQuantiser
from mmctr_pipeline.models.layers.tower import tower


class DinSemanticIds(CtrModel):
    """DIN (arXiv 1706.06978) with the mean embedding of an item's codes beside its features.

    After QVQ of the WWW 2025 MMCTR challenge, which found that DIN learns from discrete codes of
    titles and covers faster than from the vectors. Its codes come from an autoencoder, ours from
    residual quantisation, as semantic ids elsewhere (arXiv 2306.08121).
    """

    def __init__(self, config: DinSemanticIdsConfig, spec: FeatureSpec) -> None:
        """Raise `ValueError` where no item has a vector to be coded."""
        super().__init__()
        self.features = FeatureEmbedding(config.features, spec)
        self.semantic_ids = SemanticIds(config, spec)
        item_dim = self.features.item_dim + config.features.embedding_dim
        self.attention = din_attention(item_dim, config)
        self.tower = tower(
            2 * item_dim + self.features.context_dim, config.hidden_dims, config.dropout
        )
        initialise(self)

    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Fit features and codes on the items, and note the ids of the train rows."""
        self.features.fit(items, train, histories)
        self.semantic_ids.fit(items)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        features = self.features(batch)
        codes_ND = self.semantic_ids(torch.cat([batch.item_id_B, batch.history_T]), batch.items)
        codes_BD, codes_TD = codes_ND.split([len(batch), len(batch.history_T)])
        item_BD = torch.cat([features.item_BD, codes_BD], dim=1)
        history_TD = torch.cat([features.history_TD, codes_TD], dim=1)
        interest_BD = self.attention(item_BD, history_TD, batch.history_offsets)
        input_BF = torch.cat([item_BD, interest_BD, features.context_BC], dim=1)
        return self.tower(input_BF).squeeze(-1)


class SemanticIds(nn.Module):
    """The mean of the learned embeddings of an item's codes, `levels` of them for each vector.

    Each level of each kind of vector has rows of its own in one table, whose row 0 stands for "no
    vector". Items that came after training get the codes that the stored centroids give them.
    """

    codes_IC: torch.Tensor

    def __init__(self, config: DinSemanticIdsConfig, spec: FeatureSpec) -> None:
        super().__init__()
        wanted = {
            "fused": config.fused_codes,
            "text": config.text_codes,
            "image": config.image_codes,
        }
        kinds = [kind for kind, is_wanted in wanted.items() if is_wanted and spec.dim_of(kind)]
        if not kinds:
            asked = ", ".join(kind for kind, is_wanted in wanted.items() if is_wanted)
            raise ValueError(
                f"semantic ids are to come from {asked or 'no'} vectors, of which no item has any; "
                "set fused_codes, text_codes or image_codes, whichever vectors there are"
            )
        self._n_codes, self._seed = config.n_codes, config.code_seed
        self.quantisers = nn.ModuleDict(
            {k: ResidualQuantiser(spec.dim_of(k), config.n_levels, config.n_codes) for k in kinds}
        )
        n_places = len(kinds) * config.n_levels
        self.table = EmbeddingTable(1 + n_places * config.n_codes, config.features.embedding_dim)
        self.register_buffer("codes_IC", torch.zeros(spec.n_items, n_places, dtype=torch.int64))

    def fit(self, items: ItemFeatures) -> None:
        """Place the centroids by the items that have a vector, and code the items."""
        for kind, quantiser in self.quantisers.items():
            assert isinstance(quantiser, ResidualQuantiser)
            vectors_ID, present_I = items.vectors_of(kind)
            quantiser.fit(vectors_ID[present_I], self._seed)
        self.codes_IC.copy_(self._coded(items, 0)[: len(self.codes_IC)])

    def forward(self, ids_N: torch.Tensor, items: ItemFeatures) -> torch.Tensor:
        """Return `(N, D)` for item ids `(N,)`; zero for padding and items without a vector."""
        codes_IC = self.codes_IC
        if len(items.present_I) > len(codes_IC):
            codes_IC = torch.cat([codes_IC, self._coded(items, len(codes_IC))])
        id_U, slot_N = distinct_rows(known_rows(ids_N, len(codes_IC)))
        codes_UC = codes_IC[id_U]
        n_codes_U = (codes_UC != 0).sum(1).clamp_min(1)
        mean_UD = self.table(codes_UC).sum(1) / n_codes_U.unsqueeze(1)
        if ids_N.device.type == "cpu":
            return nn.functional.embedding(slot_N, mean_UD)
        return mean_UD.index_select(0, slot_N)

    def _coded(self, items: ItemFeatures, first: int) -> torch.Tensor:
        """Return the table rows of the codes of the items from `first` on, 0 where no vector is."""
        coded = []
        for kind, quantiser in self.quantisers.items():
            vectors_ID, present_I = items.vectors_of(kind)
            codes_IL = quantiser(vectors_ID[first:])
            coded.append(torch.where(present_I[first:, None], codes_IL + 1, 0))
        codes_IC = torch.cat(coded, dim=1)
        place_C = torch.arange(codes_IC.shape[1], device=codes_IC.device)
        return torch.where(codes_IC > 0, codes_IC + place_C * self._n_codes, 0)
