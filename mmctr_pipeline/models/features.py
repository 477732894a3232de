"""Feature vectors of a batch's targets, histories and context, as configured.

Values that train rows do not hold, such as cold items, new users and new tags, share one row of
their table, the unknown row. In training a share of the known values reads this row, so that it is
learned. If that share is 0, unknown values read the mean of the trained rows instead.
"""

import dataclasses

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.batch import Batch, DistinctItems, FeatureSpec, ItemFeatures
from mmctr_pipeline.models.feature_config import FeatureConfig, kinds_switched_on
from mmctr_pipeline.models.layers.click_rates import ClickRateFeatures
from mmctr_pipeline.models.layers.embedding import (
    EmbeddingTable,
    ValueTable,
    distinct_rows,
    known_rows,
)
from mmctr_pipeline.models.layers.factors import HIDDEN_SHARE, Factors
from mmctr_pipeline.models.layers.known_values import held_often, is_known
from mmctr_pipeline.models.layers.vector_inputs import VectorProjection, VectorScaling


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of a batch of B rows and T positions, `float32`.

    Under autocast the item features have autocast's number format if `projection_dim` is set.

    `item_BD` are the features of the target items, and `history_TD` the same features of the
    history items. `context_BC` are the features of user and row, of width 0 if none is configured.
    `items` are the distinct items of targets and histories, and `is_hidden_U` is True for those
    that training treats as cold items. `rate_logits_BR` are the logits of the configured click
    rates, which are also among the context features. `factor_logit_B` is the logit of `Factors`, or
    None without them.
    """

    item_BD: torch.Tensor
    history_TD: torch.Tensor
    context_BC: torch.Tensor
    items: DistinctItems
    is_hidden_U: torch.Tensor
    rate_logits_BR: torch.Tensor
    factor_logit_B: torch.Tensor | None


class FeatureEmbedding(nn.Module):
    """Looks up and joins the configured features; `item_dim` and `context_dim` are their widths.

    Item features are, in this order, the embedding of the id, the mean embedding of the tags, the
    embeddings of likes level and views level, and the fused, title and cover vectors, each
    standardised or, with `vector_projection`, times a learned matrix. Context features are the
    embeddings of the user and of the row's two levels, and the click rates of user and target.
    Kinds of vectors that no item has are left out. With `projection_dim` a linear layer maps the
    item features to that width. Otherwise zeros pad them to a multiple of `multiple_of`, since
    attention heads must divide their width, and the width of fused vectors depends on the rank of
    the data. Raises `ValueError` if no item feature is left.
    """

    known_items_I: torch.Tensor
    known_users_U: torch.Tensor
    known_tags_V: torch.Tensor
    known_item_levels_V: torch.Tensor
    known_row_levels_V: torch.Tensor

    def __init__(self, config: FeatureConfig, spec: FeatureSpec, multiple_of: int = 1) -> None:
        super().__init__()
        dim = config.embedding_dim
        self._kinds = [k for k in kinds_switched_on(config, "vectors") if spec.dim_of(k)]
        self._unknown_rate = config.unknown_rate
        self._value_rate = config.unknown_value_rate
        self._n_levels, self._n_tags = spec.n_levels, spec.n_tags
        self._max_history = config.max_history
        n_unknown = int(self._value_rate > 0)

        def levels(is_wanted: bool) -> ValueTable | None:
            n_rows = spec.n_levels + n_unknown
            return ValueTable(n_rows, config.level_embedding_dim) if is_wanted else None

        n_ids, n_tags = spec.n_items + 1, spec.n_tags + n_unknown
        self.item_id = EmbeddingTable(n_ids, dim, "items") if config.item_id else None
        self.tags = EmbeddingTable(n_tags, dim, "tags") if config.item_tags else None
        self.item_likes = levels(config.item_levels)
        self.item_views = levels(config.item_levels)
        vector_layer = VectorProjection if config.vector_projection else VectorScaling
        self.vector_layers = nn.ModuleDict({k: vector_layer(spec.dim_of(k)) for k in self._kinds})
        self.rates = ClickRateFeatures(config, spec)
        self.user_id = EmbeddingTable(spec.n_users + 1, dim, "users") if config.user_id else None
        self.factors = None
        if config.user == "factors":
            n_rows = spec.n_users, spec.n_items, n_tags
            self.factors = Factors(*n_rows, config.factor_dim)
        self.row_likes = levels(config.context_levels)
        self.row_views = levels(config.context_levels)
        # Before `fit` all values count as known.
        self.register_buffer("known_items_I", torch.ones(spec.n_items, dtype=torch.bool))
        self.register_buffer("known_users_U", torch.ones(spec.n_users, dtype=torch.bool))
        if n_unknown:
            self.register_buffer("known_tags_V", torch.ones(spec.n_tags, dtype=torch.bool))
            for name in ("known_item_levels_V", "known_row_levels_V"):
                self.register_buffer(name, torch.ones(spec.n_levels**2, dtype=torch.bool))

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
        self.context_dim += 2 * self.rates.n_rates

    def fit(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Record which values the train rows hold, and the statistics of the item vectors."""
        for kind in self._kinds:
            if isinstance(layer := self.vector_layers[kind], VectorScaling):
                layer.fit(*items.vectors_of(kind))
        read = histories.take(np.unique(train.history)).newest(self._max_history).values
        item_ids = np.concatenate([train.item_id, read])
        tags, likes, views = (
            table[torch.from_numpy(item_ids.astype(np.int64)).to(table.device)].cpu().numpy()
            for table in (items.tags_IK, items.likes_level_I, items.views_level_I)
        )
        self.known_items_I.copy_(held_often(item_ids, len(self.known_items_I), min_rows=1))
        self.known_users_U.copy_(held_often(train.user_id, len(self.known_users_U), min_rows=1))
        if self._unknown_rate == 0:
            _record_trained({self.item_id: item_ids, self.user_id: train.user_id})
        self.rates.fit(train)
        if self.factors is not None:
            self.factors.zero_untrained(train.item_id)
        row_likes, row_views = train.likes_level.astype(np.int64), train.views_level
        if self._value_rate == 0:
            factor_tags = None if self.factors is None else self.factors.tags
            _record_trained({factor_tags: tags})
            _record_trained({self.tags: tags, self.item_likes: likes, self.item_views: views})
            _record_trained({self.row_likes: row_likes, self.row_views: row_views})
            return
        for known_V, values in (
            (self.known_tags_V, tags),
            (self.known_item_levels_V, likes * self._n_levels + views),
            (self.known_row_levels_V, row_likes * self._n_levels + row_views),
        ):
            known_V.copy_(held_often(values, len(known_V)))

    @property
    def known_items(self) -> np.ndarray:
        """Table rows of the items that the train rows hold, ascending."""
        return self.known_items_I.nonzero().flatten().cpu().numpy()

    def forward(self, batch: Batch) -> Features:
        """Return the features of the batch; `history_TD` are those of `batch.history_T`."""
        items = self._distinct(batch)
        is_hidden_U = self._hidden(items.row_U)
        features_UD = self._item_features(items, is_hidden_U, batch.items)
        item_BD, history_TD = items.at_places(features_UD)
        is_hidden_B = is_hidden_U[items.slot_N[: batch.n_rows]]
        user_row_B = batch.user_id_B
        if self.user_id is not None or self.rates.user is not None:
            user_row_B = self._rows(batch.user_id_B, self.known_users_U)
        rates_B2R = self.rates(batch, user_row_B < len(self.known_users_U), is_hidden_B)
        context_BC = self._context(batch, user_row_B, is_hidden_B)
        return Features(
            item_BD=item_BD,
            history_TD=history_TD,
            context_BC=torch.cat([context_BC, rates_B2R.flatten(1)], dim=1),
            items=items,
            is_hidden_U=is_hidden_U,
            rate_logits_BR=rates_B2R[:, 0],
            factor_logit_B=self._factor_logit(self.factors, batch, is_hidden_B),
        )

    def _distinct(self, batch: Batch) -> DistinctItems:
        ids_N = torch.cat([batch.item_id_B, batch.history_T])
        unknown = len(self.known_items_I)
        row_N = self._rows(ids_N, self.known_items_I)
        if batch.history_row_B is not None:  # candidates and history of one user hardly repeat
            slot_N = torch.arange(ids_N.shape[0], device=ids_N.device)
            return DistinctItems(ids_N, row_N, slot_N, batch.n_rows)
        key_U, slot_N = distinct_rows(ids_N * 2 + (row_N == unknown).long())
        item_U = key_U // 2
        row_U = torch.where(key_U % 2 == 1, unknown, item_U)
        return DistinctItems(item_U, row_U, slot_N, batch.n_rows)

    def _rows(self, ids: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Return the table rows of ids: the id, 0 for padding, or the last row, the unknown one."""
        found = is_known(ids, known, self._unknown_rate if self.training else 0.0)
        return torch.where(found | (ids == 0), ids, len(known))

    def _hidden(self, row_U: torch.Tensor) -> torch.Tensor:
        """Return which items training treats as cold items, `(U,) bool`.

        A cold item has neither a known id nor known levels, and independent draws would hardly ever
        hide both. So the hidden items are drawn among the items whose id is read as unknown.
        """
        if not self.training or self._value_rate == 0:
            return torch.zeros_like(row_U, dtype=torch.bool)
        drawn_U = torch.rand(row_U.shape, device=row_U.device)
        if self._unknown_rate == 0:
            return drawn_U < self._value_rate
        is_unknown_U = row_U == len(self.known_items_I)
        return is_unknown_U & (drawn_U * self._unknown_rate < self._value_rate)

    def _item_features(
        self, distinct: DistinctItems, is_hidden_U: torch.Tensor, items: ItemFeatures
    ) -> torch.Tensor:
        # An item newer than the id table may still have tags, levels and vectors.
        listed_U = known_rows(distinct.item_U, items.present_I.shape[0])
        parts = []
        if self.item_id is not None:
            parts.append(self.item_id(distinct.row_U))
        if self.tags is not None:
            tags_UK = self._tag_rows(items.tags_IK[listed_U], is_hidden_U)
            parts.append(self.tags.mean(tags_UK))
        if self.item_likes is not None and self.item_views is not None:
            levels = items.likes_level_I[listed_U], items.views_level_I[listed_U]
            likes_U, views_U = self._level_rows(*levels, "known_item_levels_V", is_hidden_U)
            parts += [self.item_likes(likes_U), self.item_views(views_U)]
        for kind in self._kinds:
            vectors_ID, present_I = items.vectors_of(kind)
            parts.append(self.vector_layers[kind](vectors_ID[listed_U], present_I[listed_U]))
        if self._n_zeros:
            parts.append(parts[0].new_zeros(listed_U.shape[0], self._n_zeros))
        features_UD = torch.cat(parts, dim=1)
        return features_UD if self.projection is None else self.projection(features_UD)

    def _context(
        self, batch: Batch, user_row_B: torch.Tensor, is_hidden_B: torch.Tensor
    ) -> torch.Tensor:
        parts = [torch.zeros(batch.n_rows, 0, device=batch.item_id_B.device)]
        if self.user_id is not None:
            parts.append(self.user_id(user_row_B))
        if self.row_likes is not None and self.row_views is not None:
            levels = batch.likes_level_B, batch.views_level_B
            likes_B, views_B = self._level_rows(*levels, "known_row_levels_V", is_hidden_B)
            parts += [self.row_likes(likes_B), self.row_views(views_B)]
        return torch.cat(parts, dim=1)

    def _factor_logit(
        self, factors: Factors | None, batch: Batch, is_hidden_B: torch.Tensor
    ) -> torch.Tensor | None:
        if factors is None:
            return None
        user_B, item_B, items = batch.user_id_B, batch.item_id_B, batch.items
        hidden_rate = HIDDEN_SHARE if self.training else 0.0
        is_known_B = is_known(item_B, self.known_items_I, hidden_rate) & ~is_hidden_B
        user_row_B = torch.where(is_known(user_B, self.known_users_U), user_B, 0)
        listed_B = known_rows(item_B, items.present_I.shape[0])
        tags_BK = self._tag_rows(items.tags_IK[listed_B], is_hidden_B)
        return factors(user_row_B, torch.where(is_known_B, item_B, 0), tags_BK)

    def _tag_rows(self, tags_UK: torch.Tensor, is_hidden_U: torch.Tensor) -> torch.Tensor:
        """Return the table rows of tags: the tag, 0 for padding, or the unknown row."""
        if self._value_rate == 0:
            return known_rows(tags_UK, self._n_tags)
        rate = self._value_rate if self.training else 0.0
        found_UK = is_known(tags_UK, self.known_tags_V, rate) & ~is_hidden_U.unsqueeze(1)
        return torch.where(found_UK | (tags_UK == 0), tags_UK, self._n_tags)

    def _level_rows(
        self, likes_N: torch.Tensor, views_N: torch.Tensor, known: str, is_hidden_N: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the table rows of pairs of levels: the levels, or the unknown row for both.

        A pair can be unknown although both levels are known: level 0 of the likes may mean that an
        item has views but no likes, or, together with level 0 of the views, that it has no data.
        """
        if self._value_rate == 0:
            return likes_N, views_N
        rate = self._value_rate if self.training else 0.0
        pair_N = likes_N * self._n_levels + views_N
        found_N = is_known(pair_N, getattr(self, known), rate) & ~is_hidden_N
        unknown = self._n_levels
        return torch.where(found_N, likes_N, unknown), torch.where(found_N, views_N, unknown)


def _record_trained(rows: dict[ValueTable | None, np.ndarray]) -> None:
    for table, values in rows.items():
        if table is not None:
            table.record_trained(values)


def _width(*tables: nn.Embedding | None) -> int:
    return sum(table.embedding_dim for table in tables if table is not None)
