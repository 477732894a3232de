"""Small configurations of all models, and batches for them."""

import dataclasses

import numpy as np
import torch

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, FeatureSpec, ItemFeatures
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import (
    DinConfig,
    DinSemanticIdsConfig,
    FeatureConfig,
    ImprovedMmctrConfig,
    ModelConfig,
    QinConfig,
    SimilarityAttentionConfig,
    TargetCrossAttentionConfig,
    TransformerDcnConfig,
)

SPEC = FeatureSpec(
    n_users=30, n_items=40, vector_dim=12, n_tags=9, n_levels=11, text_dim=10, image_dim=6
)
FEATURES = FeatureConfig(
    user_id=True,
    item_levels=True,
    text_vectors=True,
    image_vectors=True,
    embedding_dim=8,
    level_embedding_dim=4,
    max_history=8,
    unknown_rate=0.2,
)

SMALL_MODELS: dict[str, ModelConfig] = {
    "improved_mmctr": ImprovedMmctrConfig(
        embedding_dim=8, level_embedding_dim=4, multimodal_dim=8, attention_dim=4, hidden_dims=(16,)
    ),
    "din": DinConfig(features=FEATURES, attention_hidden_dims=(8, 4), hidden_dims=(16, 8)),
    "qin": QinConfig(features=FEATURES, n_layers=2, n_rows=3),
    "target_cross_attention": TargetCrossAttentionConfig(
        features=FEATURES,
        n_layers=2,
        n_heads=4,
        feed_forward_dim=8,
        attention_hidden_dims=(8, 4),
        hidden_dims=(16, 8),
    ),
    "din_semantic_ids": DinSemanticIdsConfig(
        features=FEATURES,
        text_codes=True,
        image_codes=True,
        n_levels=2,
        n_codes=4,
        attention_hidden_dims=(8, 4),
        hidden_dims=(16, 8),
    ),
    "transformer_dcn": TransformerDcnConfig(
        features=FEATURES,
        n_heads=2,
        feed_forward_dim=8,
        kept_positions=3,
        cross_layers=2,
        hidden_dims=(16, 8),
        head_hidden_dims=(8, 4),
    ),
    "similarity_attention": SimilarityAttentionConfig(
        features=dataclasses.replace(FEATURES, projection_dim=12),
        learned_dim=6,
        attention_hidden_dims=(8, 4),
        cross_attention_feed_forward_dim=8,
        hidden_dims=(16, 8),
    ),
    "din, projected vectors": DinConfig(
        features=dataclasses.replace(FEATURES, vector_projection=True),
        attention_hidden_dims=(8, 4),
        hidden_dims=(16, 8),
    ),
    "din, click rates": DinConfig(
        features=dataclasses.replace(
            FEATURES, item_id=False, user_id=False, user="rates", item_rates="always"
        ),
        attention_hidden_dims=(8, 4),
        hidden_dims=(16, 8),
    ),
    "din, factors": DinConfig(
        features=dataclasses.replace(
            FEATURES, user="factors", factor_dim=3, unknown_value_rate=0.1
        ),
        attention_hidden_dims=(8, 4),
        hidden_dims=(16, 8),
    ),
    "similarity_attention, similarities alone": SimilarityAttentionConfig(
        features=FEATURES,
        attention=False,
        cross_attention_layers=0,
        quadratic_layers=0,
        id_similarity=False,
        hidden_dims=(16, 8),
    ),
}
"""Small configurations, by names of our choice; every model has at least one."""


def random_items() -> ItemFeatures:
    """Return features of the items of `SPEC` and of two more.

    Some lack vectors, and some have fewer than three tags.
    """
    n_rows = SPEC.n_items + 2
    fields = {}
    for prefix, dim in (("", SPEC.vector_dim), ("text_", 10), ("image_", 6)):
        present_I = torch.rand(n_rows) > 0.2
        present_I[0] = False
        vectors_ID = torch.randn(n_rows, dim) * 2 + 1
        vectors_ID[~present_I] = 0
        fields |= {f"{prefix}vectors_ID": vectors_ID, f"{prefix}present_I": present_I}
    return ItemFeatures(
        likes_level_I=torch.randint(0, 11, (n_rows,)),
        views_level_I=torch.randint(0, 11, (n_rows,)),
        tags_IK=torch.randint(0, SPEC.n_tags, (n_rows, 3)),
        **fields,
    )


def random_batch(n_rows: int, items: ItemFeatures, lengths: list[int] | None = None) -> Batch:
    """Return a batch with ids of three kinds: trained, untrained, and beyond the tables.

    By default some histories are empty.
    """
    length_B = torch.randint(0, 8, (n_rows,)) if lengths is None else torch.tensor(lengths)
    offsets = torch.zeros(n_rows + 1, dtype=torch.int64)
    torch.cumsum(length_B, 0, out=offsets[1:])
    return Batch(
        user_id_B=torch.randint(1, SPEC.n_users + 3, (n_rows,)),
        item_id_B=torch.randint(1, SPEC.n_items + 2, (n_rows,)),
        likes_level_B=torch.randint(0, 11, (n_rows,)),
        views_level_B=torch.randint(0, 11, (n_rows,)),
        history_T=torch.randint(1, SPEC.n_items + 2, (int(offsets[-1]),)),
        history_offsets=offsets,
        items=items,
        label_B=(torch.rand(n_rows) < 0.4).float(),
    )


def random_train_rows() -> tuple[Split, Ragged]:
    """Return train rows with most but not all users and items, and their histories."""
    generator = np.random.default_rng(3)
    n_rows, n_histories = 80, 20
    lengths = generator.integers(0, 6, n_histories)
    values = generator.integers(1, SPEC.n_items * 3 // 4, lengths.sum())
    histories = Ragged(values.astype(np.int32), np.append(0, lengths.cumsum()).astype(np.int64))
    history = generator.integers(0, n_histories, n_rows)
    train = Split(
        user_id=(history + 1).astype(np.int32),
        item_id=generator.integers(1, SPEC.n_items * 3 // 4, n_rows).astype(np.int32),
        history=history.astype(np.int32),
        likes_level=generator.integers(0, 11, n_rows).astype(np.int8),
        views_level=generator.integers(0, 11, n_rows).astype(np.int8),
        label=generator.integers(0, 2, n_rows).astype(np.int8),
    )
    return train, histories


def batch_of_train_rows(items: ItemFeatures) -> Batch:
    """Return the rows of `random_train_rows` in order, each with its own history."""
    train, histories = random_train_rows()
    lists = histories.take(train.history)
    assert train.label is not None
    return Batch(
        **{
            f"{name}_B": torch.from_numpy(getattr(train, name)).long()
            for name in ("user_id", "item_id", "likes_level", "views_level")
        },
        history_T=torch.from_numpy(lists.values).long(),
        history_offsets=torch.from_numpy(lists.offsets),
        items=items,
        label_B=torch.from_numpy(train.label).float(),
    )


def small_model(name: str, items: ItemFeatures) -> CtrModel:
    """Return the small model called `name` in evaluation mode, with random tables and statistics.

    Initial tables are nearly zero, which would hide many faults.
    """
    torch.manual_seed(0)
    model = build_model(SMALL_MODELS[name], SPEC)
    model.fit_statistics(items, *random_train_rows())
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Embedding):
                layer.weight[1:] = torch.randn_like(layer.weight[1:])
            elif isinstance(layer, torch.nn.BatchNorm1d):
                layer.running_mean.normal_(0, 0.2)
                layer.running_var.uniform_(0.5, 1.5)
    return model.eval()
