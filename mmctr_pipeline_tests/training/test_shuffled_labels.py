"""Click rates as features do not reveal the labels of train rows."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.metrics import auc
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import DinConfig, FeatureConfig
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline.training.batch_source import BatchSource, feature_spec, item_features
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.losses import ctr_loss
from mmctr_pipeline.training.score import score
from mmctr_pipeline_tests.training.small_sample import small_sample

CPU = torch.device("cpu")
FEATURES = FeatureConfig(
    item_id=False, item_tags=True, context_levels=False, fused_vectors=False, embedding_dim=16
)
TOLERANCE = 0.02


def shuffled() -> CtrDataset:
    """Return 2,400 train rows of 60 users and 60 items, whose labels are coin tosses."""
    dataset, _ = small_sample(n_train=2400, n_users=80)
    label = np.random.default_rng(5).integers(0, 2, len(dataset.train)).astype(np.int8)
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, label=label))


def train_auc(dataset: CtrDataset, fold_of_row: bool = True, **features: object) -> float:
    """Return the train AUC after 15 epochs, of a model that sees little more than ids and rates."""
    vectors = small_sample(n_train=2400, n_users=80)[1]
    config = DinConfig(
        features=dataclasses.replace(FEATURES, **features),  # type: ignore[arg-type]
        hidden_dims=(32,),
        attention_hidden_dims=(4,),
        dropout=0,
    )
    items = item_features(dataset.items, vectors, config)
    torch.manual_seed(2)
    module = build_model(config, feature_spec(dataset, vectors, config))
    module.fit_statistics(items, dataset.train, dataset.histories)
    source = BatchSource(dataset.train, dataset.histories, items, CPU, 8, fold_of_row)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    training = TrainingConfig(label_smoothing=0.0)
    module.train()
    for epoch in range(15):
        for batch in source.shuffled(128, 7, epoch):
            optimizer.zero_grad()
            ctr_loss(module, batch, training).backward()
            optimizer.step()
    assert dataset.train.label is not None
    return auc(dataset.train.label, score(module, source))


@pytest.mark.slow
def test_shuffled_labels_are_learned_no_better_with_user_click_rates() -> None:
    dataset = shuffled()
    assert train_auc(dataset, user="rates") < 0.5 + 2 * TOLERANCE
    # Rates that count the row itself do reveal its label.
    assert train_auc(dataset, fold_of_row=False, user="rates") > 0.5 + 3 * TOLERANCE


@pytest.mark.slow
def test_shuffled_labels_are_learned_no_better_with_item_click_rates() -> None:
    dataset = shuffled()
    without = train_auc(dataset)
    assert train_auc(dataset, item_rates="always") < without + TOLERANCE


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"item_id": True, "item_rates": "always"},
            "item_rates is 'always'; together with item_id",
        ),
        (
            {"item_id": False, "item_rates": "always", "user": "factors"},
            "item_rates is 'always'; together with user: factors",
        ),
        ({"user": "rates", "user_id": True}, "user is 'rates'; together with user_id"),
    ],
)
def test_click_rates_cannot_be_combined_with_embeddings_of_the_same_ids(
    features: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        FeatureConfig(**features)
