"""Ours: target attention that is told how similar the target is to each item of the history."""

import math

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.data.co_interactions import count_co_interactions
from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.config import SimilarityAttentionConfig
from mmctr_pipeline.models.feature_spec import FeatureSpec
from mmctr_pipeline.models.features import VECTOR_KINDS, FeatureEmbedding, Features
from mmctr_pipeline.models.initialisation import initialise
from mmctr_pipeline.models.layers.co_interactions import CoInteractionSimilarity
from mmctr_pipeline.models.layers.embedding import known_rows
from mmctr_pipeline.models.layers.quadratic import QuadraticBlock
from mmctr_pipeline.models.layers.segments import Segments, segment_mean, spread
from mmctr_pipeline.models.layers.similarity import (
    N_SUMMARIES,
    LearnedVectors,
    ages,
    cosines,
    summaries,
)
from mmctr_pipeline.models.layers.target_attention import TargetAttention
from mmctr_pipeline.models.layers.target_query import TargetQueryEncoder
from mmctr_pipeline.models.layers.tower import tower

_LEARNED_HIDDEN = 128


class SimilarityAttention(CtrModel):
    """Target attention with similarities of target and history as inputs; every part optional.

    At each position of the history stand up to seven numbers: the cosine of the target's and the
    item's fused, title and cover vectors, two by the users that both have in common
    (`CoInteractionSimilarity`), and the cosine of learned vectors, with and without ids
    (`LearnedVectors`), whose means are added to the logit as well. They go into the attention of
    DIN (arXiv 1706.06978) beside its own inputs, and their mean, maximum, last and recency-weighted
    mean over the history into the tower. Beside them stand the item-side levels of the challenge's
    best systems and, by configuration, layers in which the target queries the history
    (`TargetQueryEncoder`) and quadratic ones (QIN, arXiv 2504.17699). The length of the
    history, and in the attention the age of each item, are always told.
    """

    def __init__(self, config: SimilarityAttentionConfig, spec: FeatureSpec) -> None:
        """Raise `ValueError` for no item feature, no hidden unit of attention, or unfit heads."""
        super().__init__()
        self._config = config
        self.features = FeatureEmbedding(config.features, spec)
        wanted = {
            "fused": config.fused_similarity,
            "text": config.text_similarity,
            "image": config.image_similarity,
        }
        self._kinds = [kind for kind in VECTOR_KINDS if wanted[kind] and spec.dim_of(kind)]
        # Titles and covers say more than the fused vectors, which are fewer numbers.
        self._content = [kind for kind in ("text", "image") if spec.dim_of(kind)] or ["fused"]
        content_dim = sum(spec.dim_of(kind) for kind in self._content)
        self.learned = nn.ModuleList(
            LearnedVectors(content_dim, _LEARNED_HIDDEN, config.learned_dim, n_rows)
            for is_wanted, n_rows in (
                (config.content_similarity, None),
                (config.id_similarity, spec.n_items + 1),
            )
            if is_wanted
        )
        self.learned_weight_L = None
        if self.learned and config.similarity_in_logit:
            self.learned_weight_L = nn.Parameter(torch.full((len(self.learned),), 2.0))
        self.co_interactions = (
            CoInteractionSimilarity(spec.n_items) if config.co_interactions else None
        )
        n_similarities = len(self._kinds) + len(self.learned) + 2 * int(config.co_interactions)

        dim = self.features.item_dim
        input_dim = dim + self.features.context_dim + 1
        self.attention = self.query_encoder = None
        if config.attention:
            n_inputs = 1 + (n_similarities if config.similarity_in_attention else 0)
            self.attention = TargetAttention(
                dim,
                config.attention_hidden_dims,
                "relu",
                dropout=config.dropout,
                n_inputs=n_inputs,
            )
            input_dim += dim
        if config.cross_attention_layers:
            self.query_encoder = TargetQueryEncoder(
                dim,
                n_layers=config.cross_attention_layers,
                n_heads=config.cross_attention_heads,
                feed_forward_dim=config.cross_attention_feed_forward_dim,
                max_history=config.features.max_history,
                dropout=config.dropout,
            )
            input_dim += dim
        if config.similarity_in_tower:
            input_dim += N_SUMMARIES * n_similarities
        self.input_norm = nn.BatchNorm1d(input_dim)
        self.quadratic = nn.Sequential(
            *(
                QuadraticBlock(input_dim, 1, dropout=config.dropout)
                for _ in range(config.quadratic_layers)
            )
        )
        self.tower = tower(input_dim, config.hidden_dims, config.dropout)
        initialise(self)

    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Fit the features, and count co-interactions on the train rows."""
        self.features.fit(items, train, histories)
        if self.co_interactions is not None:
            n_items = len(self.features.known_items_I)
            self.co_interactions.fit(count_co_interactions(train, histories, n_items))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        features = self.features(batch)
        segments = Segments.of(batch.history_offsets, len(batch.history_T))
        learned_TL = self._learned(batch, features, segments)
        similarity_TS = torch.cat([self._measured(batch, features, segments), learned_TL], dim=1)
        length_B = batch.history_offsets.diff()
        parts = [
            features.item_BD,
            features.context_BC,
            torch.log1p(length_B.to(similarity_TS.dtype)).unsqueeze(1),
        ]
        if self.attention is not None:
            age_T = ages(segments, len(batch.history_T)).to(similarity_TS.dtype)
            inputs_TN = (1 / (1 + age_T)).unsqueeze(1)
            if self._config.similarity_in_attention:
                inputs_TN = torch.cat([similarity_TS, inputs_TN], dim=1)
            parts.append(
                self.attention(
                    features.item_BD,
                    features.history_TD,
                    batch.history_offsets,
                    inputs_TN=inputs_TN,
                )
            )
        if self.query_encoder is not None:
            parts.append(
                self.query_encoder(features.item_BD, features.history_TD, batch.history_offsets)
            )
        if self._config.similarity_in_tower and similarity_TS.shape[1]:
            parts.append(summaries(similarity_TS, segments))
        logits_B = self.tower(self.quadratic(self.input_norm(torch.cat(parts, dim=1)))).squeeze(-1)
        if self.learned_weight_L is None:
            return logits_B
        return logits_B + (segment_mean(learned_TL, segments) * self.learned_weight_L).sum(1)

    def _measured(self, batch: Batch, features: Features, segments: Segments) -> torch.Tensor:
        """Return the similarities that nothing is learned for at each position, `(T, S)`."""
        items = features.items
        listed_U = known_rows(items.item_U, len(batch.items.present_I))
        found_S = []
        with torch.no_grad():
            for kind in self._kinds:
                vectors_ID, _ = batch.items.vectors_of(kind)
                found_S.append(cosines(vectors_ID[listed_U], items, segments))
            if self.co_interactions is not None:
                user_T, target_T = (
                    spread(ids_B.unsqueeze(1), segments).squeeze(1)
                    for ids_B in (batch.user_id_B, batch.item_id_B)
                )
                found_S += self.co_interactions(user_T, target_T, batch.history_T)
        return _stacked(found_S, batch)

    def _learned(self, batch: Batch, features: Features, segments: Segments) -> torch.Tensor:
        """Return the learned similarities at each position, `(T, L)`."""
        if not len(self.learned):
            return _stacked([], batch)
        items = features.items
        listed_U = known_rows(items.item_U, len(batch.items.present_I))
        content = (batch.items.vectors_of(kind)[0][listed_U] for kind in self._content)
        # Of length one, as encoders mean their vectors, but of numbers around one.
        content_UC = torch.cat(
            [functional.normalize(each, dim=1) * math.sqrt(each.shape[1]) for each in content],
            dim=1,
        )
        vectors_LUD = (learned(content_UC, items.row_U) for learned in self.learned)
        return _stacked([cosines(each, items, segments) for each in vectors_LUD], batch)


def _stacked(columns: list[torch.Tensor], batch: Batch) -> torch.Tensor:
    """Return `(T, N)` of N columns `(T,)`, of which there may be none."""
    if columns:
        return torch.stack(columns, dim=1)
    return torch.zeros(len(batch.history_T), 0, device=batch.history_T.device)
