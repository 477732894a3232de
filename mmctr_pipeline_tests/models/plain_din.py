"""Plain reference implementations of features and DIN, one item and one row at a time."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.din import Din
from mmctr_pipeline.models.din_semantic_ids import DinSemanticIds
from mmctr_pipeline.models.features import FeatureEmbedding
from mmctr_pipeline.models.layers.vector_inputs import VectorProjection
from mmctr_pipeline_tests.models.zoo import random_train_rows


def known_ids() -> tuple[set[int], set[int]]:
    """Return the items and the users of `random_train_rows`."""
    train, histories = random_train_rows()
    in_histories = {item for history in train.history for item in histories[history].tolist()}
    return in_histories | set(train.item_id.tolist()), set(train.user_id.tolist())


def plain_item_features(
    features: FeatureEmbedding, items: ItemFeatures, ids: Iterable[int]
) -> torch.Tensor:
    """Return the features `(N, D)` of item ids in evaluation mode.

    `features` was fitted to `random_train_rows`. Vectors are standardised with its statistics or
    multiplied by its matrix.
    """
    known, _ = known_ids()
    rows = []
    for item in ids:
        parts = []
        if features.item_id is not None:
            unknown = features.item_id.num_embeddings - 1
            row = item if item in known or item == 0 else unknown
            parts.append(features.item_id.weight[row])
        if features.tags is not None:
            tags = [tag for tag in items.tags_IK[item].tolist() if tag]
            total = sum((features.tags.weight[tag] for tag in tags), torch.tensor(0.0))
            parts.append(total.expand(features.tags.embedding_dim) / max(len(tags), 1))
        if features.item_likes is not None:
            parts.append(features.item_likes.weight[items.likes_level_I[item]])
            parts.append(features.item_views.weight[items.views_level_I[item]])
        for kind in [kind for kind in ("fused", "text", "image") if kind in features.vector_layers]:
            vectors_ID, present_I = items.vectors_of(kind)
            layer = features.vector_layers[kind]
            if isinstance(layer, VectorProjection):
                weight_DD = layer.matrix.weight
                vector_D = weight_DD @ vectors_ID[item].to(weight_DD.dtype)
            else:
                vector_D = (vectors_ID[item] - layer.mean_D) / layer.scale_D
            parts.append(vector_D if present_I[item] else torch.zeros_like(vector_D))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def plain_context(features: FeatureEmbedding, batch: Batch) -> torch.Tensor:
    """Return contexts `(B, C)` in evaluation mode, after a fit to `random_train_rows`."""
    _, known = known_ids()
    rows = []
    for row in range(len(batch)):
        parts = []
        if features.user_id is not None:
            user = int(batch.user_id_B[row])
            unknown = features.user_id.num_embeddings - 1
            parts.append(features.user_id.weight[user if user in known else unknown])
        if features.row_likes is not None:
            parts.append(features.row_likes.weight[batch.likes_level_B[row]])
            parts.append(features.row_views.weight[batch.views_level_B[row]])
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def history_items(batch: Batch, row: int) -> list[int]:
    start, stop = batch.history_offsets[row : row + 2].tolist()
    return batch.history_T[start:stop].tolist()


def plain_din_logits(
    model: Din | DinSemanticIds,
    batch: Batch,
    item_features: Callable[[list[int]], torch.Tensor],
    activation: str = "relu",
    softmax: bool = False,
) -> torch.Tensor:
    """Return the logits `(B,)` of DIN in evaluation mode, without dropout."""
    attention, context_BC = model.attention, plain_context(model.features, batch)
    scorer = [*zip([attention.first, *attention.further], attention.activations, strict=True)]
    logits = []
    for row in range(len(batch)):
        target_D = item_features([int(batch.item_id_B[row])])[0]
        interest_D = torch.zeros_like(target_D)
        if history := history_items(batch, row):
            keys_LD = item_features(history)
            query_LD = target_D.expand_as(keys_LD)
            x = torch.cat([query_LD, keys_LD, query_LD - keys_LD, query_LD * keys_LD], dim=1)
            for linear, activate in scorer:
                x = _linear(linear, x)
                x = _dice(activate, x) if activation == "dice" else x.clamp_min(0)
            weight_L1 = _linear(attention.score, x)
            if softmax:
                weight_L1 = weight_L1.exp() / weight_L1.exp().sum()
            interest_D = (weight_L1 * keys_LD).sum(0)
        x = torch.cat([target_D, interest_D, context_BC[row]])
        for layer in model.tower:
            if isinstance(layer, nn.Linear):
                x = _linear(layer, x)
            elif isinstance(layer, nn.BatchNorm1d):
                x = (x - layer.running_mean) / (layer.running_var + layer.eps).sqrt()
                x = x * layer.weight + layer.bias
            elif isinstance(layer, nn.ReLU):
                x = x.clamp_min(0)
        logits.append(x)
    return torch.cat(logits)


def _dice(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gate = torch.sigmoid((x - layer.running_mean_D) / (layer.running_variance_D + 1e-9).sqrt())
    return gate * x + (1 - gate) * layer.alpha_D * x


def _linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return x @ layer.weight.T + layer.bias
