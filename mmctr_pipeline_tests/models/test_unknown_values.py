"""If a row has a value that no train row holds, no untrained weight reaches its logit."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import FeatureSpec, ItemFeatures
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import (
    DinConfig,
    FeatureConfig,
    ImprovedMmctrConfig,
    ModelConfig,
    SimilarityAttentionConfig,
)
from mmctr_pipeline.training.batch_source import BatchSource, feature_spec, item_features
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.losses import ctr_loss
from mmctr_pipeline.training.score import score
from mmctr_pipeline_tests.training.small_sample import small_sample

NEW_USER, NEW_ITEM, NEW_LEVEL, NEW_TAG = 390, 1, 0, 9
N_USERS = 300
UNTRAINED = 50.0
"""Weight of table rows that must not be read: any logit that it reached would be far off."""

FEATURES = FeatureConfig(
    user_id=True, item_levels=True, embedding_dim=8, level_embedding_dim=4, max_history=8
)
LEARNED = dataclasses.replace(FEATURES, unknown_rate=0.3, unknown_value_rate=0.15)
SMALL: dict[str, Any] = {"hidden_dims": (16,), "attention_hidden_dims": (8,)}
MODELS: dict[str, ModelConfig] = {
    "improved_mmctr": ImprovedMmctrConfig(
        embedding_dim=8, level_embedding_dim=4, multimodal_dim=8, attention_dim=4, hidden_dims=(16,)
    ),
    "din": DinConfig(features=FEATURES, **SMALL),
    "din, learned": DinConfig(features=LEARNED, **SMALL),
    "din, factors": DinConfig(features=dataclasses.replace(FEATURES, user="factors"), **SMALL),
    "din, learned, factors": DinConfig(
        features=dataclasses.replace(LEARNED, user="factors"), **SMALL
    ),
    "similarity_attention": SimilarityAttentionConfig(features=LEARNED, learned_dim=6, **SMALL),
}
CPU = torch.device("cpu")


def dataset_with_new_values() -> tuple[CtrDataset, ItemVectors]:
    """Return data whose labels depend on users, levels and tags; no train row has a new value."""
    dataset, vectors = small_sample(n_train=2500)
    generator = np.random.default_rng(1)
    n_items = len(dataset.items)
    levels_2I = generator.integers(1, 11, (2, n_items)).astype(np.int8)
    tags = generator.integers(1, 6, n_items)
    levels_2I[:, NEW_ITEM - 1], tags[NEW_ITEM - 1] = NEW_LEVEL, NEW_TAG
    items = dataclasses.replace(
        dataset.items,
        likes_level=levels_2I[0],
        views_level=levels_2I[1],
        tags=Ragged.from_lists([[tag] for tag in tags]),
    )
    histories = [
        [item for item in history.tolist() if item != NEW_ITEM] for history in dataset.histories
    ]
    train = dataset.train.take(dataset.train.item_id != NEW_ITEM)
    row_levels = {
        name: generator.integers(1, 11, len(train)).astype(np.int8)
        for name in ("likes_level", "views_level")
    }
    push = (
        row_levels["likes_level"] / 5
        - row_levels["views_level"] / 5
        + levels_2I[0][train.item_id - 1] / 5
        - levels_2I[1][train.item_id - 1] / 5
        + (tags[train.item_id - 1] == 2)
        + (train.user_id % 3)
    )
    label = (generator.random(len(train)) < 1 / (1 + np.exp(-2 * (push - 1.5)))).astype(np.int8)
    train = dataclasses.replace(train, **row_levels, label=label)
    dataset = dataclasses.replace(
        dataset, train=train, items=items, histories=Ragged.from_lists(histories)
    )
    table = vectors.fused
    table.present[NEW_ITEM], table.vectors[NEW_ITEM] = True, table.vectors[2:].mean(0)
    return dataset, ItemVectors(table, text=table, image=table)


def poison(module: CtrModel) -> None:
    """Give the rows of the new values large weights."""
    new_rows = {
        "user": range(N_USERS + 1, 401),
        "item_embedding": [NEW_ITEM],
        "item_id": [NEW_ITEM],
        "id": [NEW_ITEM],
        "tags": [NEW_TAG],
        "likes": [NEW_LEVEL],
        "views": [NEW_LEVEL],
        "item": [NEW_ITEM],
    }
    with torch.no_grad():
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Embedding):
                last = name.rsplit(".", 1)[-1]
                (rows,) = [rows for key, rows in new_rows.items() if key in last][:1]
                layer.weight[[row for row in rows if row < len(layer.weight)]] = UNTRAINED


def trained(
    config: ModelConfig, dataset: CtrDataset, items: ItemFeatures, spec: FeatureSpec
) -> CtrModel:
    training = TrainingConfig(label_smoothing=0.0)
    torch.manual_seed(3)
    module = build_model(config, spec)
    module.fit_statistics(items, dataset.train, dataset.histories)
    poison(module)
    source = BatchSource(dataset.train, dataset.histories, items, CPU, config.max_history)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    # Without a decay, the mean would depend on how the last steps are rounded.
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / 8, total_iters=7)
    module.train()
    for epoch in range(8):
        for batch in source.shuffled(256, 5, epoch):
            optimizer.zero_grad()
            ctr_loss(module, batch, training).backward()
            optimizer.step()
        decay.step()
    return module


def planted(rows: Split, items: ItemFeatures) -> dict[str, tuple[Split, ItemFeatures]]:
    """Return rows and items by feature: in them, every row has the new value of that feature.

    Under `nothing` no value is new.
    """

    def column(name: str, value: int) -> tuple[Split, ItemFeatures]:
        values = np.full_like(getattr(rows, name), value)
        return dataclasses.replace(rows, **{name: values}), items

    def table(name: str, value: int) -> tuple[Split, ItemFeatures]:
        values = torch.full_like(getattr(items, name), value)
        return rows, dataclasses.replace(items, **{name: values})

    return {
        "nothing": (rows, items),
        "user": column("user_id", NEW_USER),
        "user beyond the table": column("user_id", 10_000),
        "item": column("item_id", NEW_ITEM),
        "likes level": column("likes_level", NEW_LEVEL),
        "views level": column("views_level", NEW_LEVEL),
        "item's likes level": table("likes_level_I", NEW_LEVEL),
        "item's views level": table("views_level_I", NEW_LEVEL),
        "tag": table("tags_IK", NEW_TAG),
    }


@pytest.mark.parametrize(
    "name",
    [
        "improved_mmctr",
        pytest.param("similarity_attention", marks=pytest.mark.slow),
        pytest.param("din", marks=pytest.mark.slow),
        pytest.param("din, learned", marks=pytest.mark.slow),
    ],
)
def test_an_unseen_value_of_any_feature_leaves_the_mean_near_the_base_rate(name: str) -> None:
    config = MODELS[name]
    dataset, vectors = dataset_with_new_values()
    items = item_features(dataset.items, vectors, config)
    module = trained(config, dataset, items, feature_spec(dataset, vectors, config))
    assert dataset.train.label is not None
    rows, base_rate = dataset.train.take(np.arange(1000)), dataset.train.label.mean()
    means = {}
    for feature, (split, planted_items) in planted(rows, items).items():
        source = BatchSource(split, dataset.histories, planted_items, CPU, config.max_history)
        means[feature] = score(module, source).mean()
    assert 0.3 < base_rate < 0.7
    # The new item also has a new tag and new levels.
    limit = {feature: 0.2 if feature == "item" else 0.1 for feature in means}
    far_off = {f: mean for f, mean in means.items() if not abs(mean - base_rate) < limit[f]}
    assert not far_off, f"base rate {base_rate}"


def test_a_loaded_model_scores_unseen_values_like_the_saved_one() -> None:
    config = MODELS["improved_mmctr"]
    dataset, vectors = dataset_with_new_values()
    items = item_features(dataset.items, vectors, config)
    spec = feature_spec(dataset, vectors, config)
    module = build_model(config, spec)
    module.fit_statistics(items, dataset.train, dataset.histories)
    poison(module)
    loaded = build_model(config, spec)
    loaded.load_state_dict(module.eval().state_dict())
    split, _ = planted(dataset.train, items)["likes level"]
    source = BatchSource(split, dataset.histories, items, CPU)
    assert np.array_equal(score(loaded, source), score(module, source))
    weight = loaded.get_parameter("likes_embedding.weight")
    torch.testing.assert_close(weight[NEW_LEVEL], weight[1:].mean(0))
