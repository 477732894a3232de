"""Our model: target attention with the target's similarity to each history item as an input."""

import math

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.data.co_interactions import count_co_interactions
from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import initialise
from mmctr_pipeline.models.batch import Batch, FeatureSpec, ItemFeatures
from mmctr_pipeline.models.config import (
    DinAttentionSettings,
    SimilarityAttentionConfig,
    TargetCrossAttentionConfig,
    kinds_switched_on,
)
from mmctr_pipeline.models.feature_model import FeatureModel
from mmctr_pipeline.models.features import Features
from mmctr_pipeline.models.layers.attention import TargetAttention
from mmctr_pipeline.models.layers.co_interactions import CoInteractionSimilarity
from mmctr_pipeline.models.layers.dense import tower
from mmctr_pipeline.models.layers.embedding import known_rows
from mmctr_pipeline.models.layers.one_history import pairs_of
from mmctr_pipeline.models.layers.pairs import Pairs
from mmctr_pipeline.models.layers.quadratic import QuadraticBlock
from mmctr_pipeline.models.layers.segments import segment_mean
from mmctr_pipeline.models.layers.similarity import (
    N_SUMMARIES,
    LearnedVectors,
    cosines,
    dots,
    summaries,
)
from mmctr_pipeline.models.layers.target_query import TargetQueryEncoder

_LEARNED_HIDDEN = 128


class SimilarityAttention(FeatureModel):
    """Target attention with similarities of target and history as inputs; every part is optional.

    Each position of the history has up to seven similarities: the cosines of the target's and the
    item's fused, title and cover vectors, two by the users that both have in common
    (`CoInteractionSimilarity`), and the cosines of learned vectors, with and without ids
    (`LearnedVectors`). All similarities are further inputs of DIN's attention (arXiv 1706.06978),
    and their mean, maximum, last and recency-weighted mean over the history are inputs of the
    tower. The mean cosines of the learned vectors are also added to the logit. The model also reads
    the features of `FeatureConfig` and has, if configured, layers in which the target queries the
    history (`TargetQueryEncoder`) and quadratic layers (QIN, arXiv 2504.17699). It always reads the
    length of the history and, in the attention, the age of each item.
    """

    shares_one_history = True

    def __init__(self, config: SimilarityAttentionConfig, spec: FeatureSpec) -> None:
        """Raise `ValueError` without item features or attention units, or if heads do not fit."""
        n_heads = config.cross_attention_heads if config.cross_attention_layers else 1
        super().__init__(config, spec, multiple_of=n_heads)
        self._config = config
        self._kinds = [k for k in kinds_switched_on(config, "similarity") if spec.dim_of(k)]
        # Titles and covers hold more than the fused vectors, which are narrower.
        self._content = [kind for kind in ("text", "image") if spec.dim_of(kind)] or ["fused"]
        content_dim = sum(spec.dim_of(kind) for kind in self._content)
        id_rows: list[int | None] = [None] if config.content_similarity else []
        id_rows += [spec.n_items + 1] if config.id_similarity else []
        self.learned = nn.ModuleList(
            LearnedVectors(content_dim, _LEARNED_HIDDEN, config.learned_dim, n_rows)
            for n_rows in id_rows
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
            attention = DinAttentionSettings(
                attention_hidden_dims=config.attention_hidden_dims, attention_dropout=config.dropout
            )
            n_inputs = 1 + (n_similarities if config.similarity_in_attention else 0)
            self.attention = TargetAttention(dim, attention, n_inputs)
            input_dim += dim
        if config.cross_attention_layers:
            encoder = TargetCrossAttentionConfig(
                features=config.features,
                n_layers=config.cross_attention_layers,
                n_heads=config.cross_attention_heads,
                feed_forward_dim=config.cross_attention_feed_forward_dim,
                attention_dropout=config.dropout,
            )
            self.query_encoder = TargetQueryEncoder(dim, encoder)
            input_dim += dim
        if config.similarity_in_tower:
            input_dim += N_SUMMARIES * n_similarities
        self.input_norm = nn.BatchNorm1d(input_dim)
        self.quadratic = nn.Sequential(
            *(QuadraticBlock(input_dim, 1, config.dropout) for _ in range(config.quadratic_layers))
        )
        self.tower = tower(input_dim, config.hidden_dims, config.dropout)
        initialise(self)

    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Fit the features, and count co-interactions on the train rows."""
        super().fit_statistics(items, train, histories)
        for layer in self.learned:
            assert isinstance(layer, LearnedVectors)
            if layer.id is not None and not self._config.features.unknown_rate:
                layer.id.record_trained(self.features.known_items)
        if self.co_interactions is not None:
            n_items = len(self.features.known_items_I)
            self.co_interactions.fit(count_co_interactions(train, histories, n_items))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        features, segments = self.features(batch), pairs_of(batch)
        similarity_TS, learned_TL = self._similarities(batch, features, segments)
        length_B = segments.offsets.diff().expand(batch.n_rows)
        log_length_B = torch.log1p(length_B.to(similarity_TS.dtype))
        parts = [features.item_BD, features.context_BC, log_length_B.unsqueeze(1)]
        vectors = features.item_BD, features.history_TD
        if self.attention is not None:
            inputs_TN = (1 / (1 + segments.ages().to(similarity_TS.dtype))).unsqueeze(-1)
            if self._config.similarity_in_attention:
                inputs_TN = inputs_TN.expand(*segments.shape, 1)
                inputs_TN = torch.cat([similarity_TS, inputs_TN], dim=-1)
            parts.append(self.attention(*vectors, segments, inputs_TN))
        if self.query_encoder is not None:
            parts.append(self.query_encoder(*vectors, segments))
        if self._config.similarity_in_tower and similarity_TS.shape[-1]:
            parts.append(summaries(similarity_TS, segments))
        logits_B = self.tower(self.quadratic(self.input_norm(torch.cat(parts, dim=1)))).squeeze(-1)
        logits_B = self.with_users(logits_B, features)
        if self.learned_weight_L is None:
            return logits_B
        return logits_B + (segment_mean(learned_TL, segments) * self.learned_weight_L).sum(1)

    def _similarities(
        self, batch: Batch, features: Features, segments: Pairs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all similarities at each position, `(T, S)`, and the L learned ones, `(T, L)`."""
        items = features.items
        listed_U = known_rows(items.item_U, batch.items.present_I.shape[0])

        # Only the direction of these vectors has a meaning.
        kinds = dict.fromkeys(self._kinds + (self._content if self.learned else []))
        unit = {
            kind: functional.normalize(batch.items.vectors_of(kind)[0][listed_U], dim=1)
            for kind in kinds
        }
        learned: list[torch.Tensor] = []
        if self.learned:
            # The scale makes entries about one.
            scaled = [unit[kind] * math.sqrt(unit[kind].shape[1]) for kind in self._content]
            content_UC = torch.cat(scaled, dim=1)
            learned = [
                cosines(layer(content_UC, items.row_U), items, segments) for layer in self.learned
            ]
        with torch.no_grad():
            measured = [dots(unit[kind], items, segments) for kind in self._kinds]
            if self.co_interactions is not None:
                # A hidden item becomes row 0, which shares no users.
                item_N = torch.where(features.is_hidden_U, 0, items.item_U)[items.slot_N]
                target_B, history_T = item_N.split([batch.n_rows, batch.history_T.shape[0]])
                user_T, target_T = map(segments.expanded, (batch.user_id_B, target_B))
                measured += self.co_interactions(user_T, target_T, segments.of_positions(history_T))
        # Without any similarity the result still has T rows.
        none_T0 = torch.zeros(*segments.shape, 0, device=listed_U.device)
        all_TS, learned_TL = (
            torch.cat([none_T0, *(column_T.unsqueeze(-1) for column_T in columns)], dim=-1)
            for columns in (measured + learned, learned)
        )
        return all_TS, learned_TL
