"""Settings that are `auto` follow the data, and the log says why."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.models.config import DinConfig, FeatureConfig, ImprovedMmctrConfig
from mmctr_pipeline.training.auto_settings import resolve_auto
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import train_ctr
from mmctr_pipeline_tests.training.small_sample import small_sample

AUTO = DinConfig(
    features=FeatureConfig(
        user="auto",
        item_rates="auto",
        item_id=False,
        embedding_dim=4,
        level_embedding_dim=4,
        max_history=8,
    ),
    hidden_dims=(8,),
    attention_hidden_dims=(8,),
)
AUTO_TRAINING = TrainingConfig(in_batch_negatives="auto", max_epochs=1, batch_size=512)


def with_returning_users() -> CtrDataset:
    dataset, _ = small_sample()
    return dataclasses.replace(dataset, valid=dataset.train.take(np.arange(500)))


def with_drawn_negatives() -> CtrDataset:
    """Return data in which each user has two rows without a click for each click."""
    dataset, _ = small_sample()
    train = dataset.train.take(np.argsort(dataset.train.user_id, kind="stable"))
    n_rows = len(train) // 3 * 3
    train = train.take(np.arange(n_rows))
    user_id = np.repeat(np.arange(1, n_rows // 3 + 1, dtype=np.int32) % 300 + 1, 3)
    label = np.tile(np.array([1, 0, 0], np.int8), n_rows // 3)
    return dataclasses.replace(
        dataset, train=dataclasses.replace(train, user_id=user_id, label=label)
    )


def test_impressions_of_new_users_get_no_user_features_and_no_negatives() -> None:
    dataset, _ = small_sample()
    model, training = resolve_auto(dataset, AUTO, AUTO_TRAINING)
    assert isinstance(model, DinConfig)
    assert (model.features.user, training.in_batch_negatives) == ("never", 0.0)


def test_drawn_negatives_turn_in_batch_negatives_on_and_click_rates_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "mmctr_pipeline"):
        # Click rates are off even if users return, since all users have the same rate.
        drawn = with_drawn_negatives()
        drawn = dataclasses.replace(drawn, valid=drawn.train.take(np.arange(500)))
        model, training = resolve_auto(drawn, AUTO, AUTO_TRAINING)
    assert isinstance(model, DinConfig)
    assert training.in_batch_negatives == 1.0
    assert (model.features.user, model.features.item_rates) == ("never", "never")
    assert (
        "training.in_batch_negatives: auto chose 1, because 100% of the users or histories have "
        "exactly 2 rows without a click for each click" in caplog.messages
    )


def test_users_who_return_get_factors_instead_of_item_rates(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset = with_returning_users()
    with caplog.at_level(logging.INFO, "mmctr_pipeline"):
        model, training = resolve_auto(dataset, AUTO, AUTO_TRAINING)
    assert isinstance(model, DinConfig)
    assert training.in_batch_negatives == 0.0
    assert (model.features.user, model.features.item_rates) == ("factors", "never")
    assert (
        "model.features.user: auto chose factors, because 100.0% of the valid rows have a user who "
        "occurs in train" in caplog.messages
    )


@pytest.mark.parametrize(("item_id", "item_rates"), [(True, "never"), (False, "always")])
def test_item_rates_of_new_users_stay_off_beside_item_ids(item_id: bool, item_rates: str) -> None:
    dataset, _ = small_sample()
    features = dataclasses.replace(AUTO.features, item_id=item_id)
    model, _ = resolve_auto(dataset, dataclasses.replace(AUTO, features=features), AUTO_TRAINING)
    assert isinstance(model, DinConfig)
    assert (model.features.user, model.features.item_rates) == ("never", item_rates)


def test_settings_without_auto_stay_unchanged_and_log_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset, _ = small_sample(n_train=100, n_valid=100)
    settings = ImprovedMmctrConfig(), TrainingConfig(in_batch_negatives=0.5)
    with caplog.at_level(logging.INFO, "mmctr_pipeline"):
        assert resolve_auto(dataset, *settings) == settings
    assert not caplog.messages


def test_a_trained_model_records_the_resolved_settings() -> None:
    dataset, vectors = small_sample(n_train=600, n_valid=300)
    trained = train_ctr(dataset, vectors, AUTO, AUTO_TRAINING, torch.device("cpu"))
    assert isinstance(trained.model_config, DinConfig)
    features, training = trained.model_config.features, trained.training_config
    assert "auto" not in (features.user, features.item_rates, training.in_batch_negatives)
