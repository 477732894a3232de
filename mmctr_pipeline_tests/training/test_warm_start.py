"""A training that begins with the weights of an earlier model on other data."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.ids import IdMap
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import (
    DinConfig,
    DinSemanticIdsConfig,
    FeatureConfig,
    ModelConfig,
)
from mmctr_pipeline.pipeline import score
from mmctr_pipeline.training.batch_source import feature_spec, item_features
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline.training.trainer import CtrTrainer
from mmctr_pipeline.training.warm_start import WarmStart, warm_settings
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL, small_sample

CPU = torch.device("cpu")
DIN = DinConfig(
    features=FeatureConfig(
        user_id=True, user="factors", embedding_dim=8, level_embedding_dim=4, factor_dim=3,
        unknown_rate=0.2, unknown_value_rate=0.1,
    ),
    hidden_dims=(16,),
    attention_hidden_dims=(8,),
)  # fmt: skip


def warm_start(trained: TrainedCtr, vectors: ItemVectors) -> WarmStart:
    return WarmStart(
        name="version-1",
        state_dict=trained.module.state_dict(),
        model_config=trained.model_config,
        spec=trained.spec,
        id_maps=trained.id_maps,
        vectors=vectors.identities,
    )


def begun(
    dataset: CtrDataset, vectors: ItemVectors, config: ModelConfig, start: WarmStart
) -> torch.nn.Module:
    """Return a model with the weights of `start`, before it is trained."""
    items = item_features(dataset.items, vectors, config)
    spec = feature_spec(dataset, vectors, config)
    module = build_model(config, spec)
    module.fit_statistics(items, dataset.train, dataset.histories)
    start.load_into(module, spec, dataset)
    return module.eval()


@pytest.mark.parametrize("config", [SMALL_MODEL, DIN], ids=["improved_mmctr", "din"])
def test_on_the_same_data_the_new_model_begins_with_the_scores_of_the_earlier_one(
    config: ModelConfig,
) -> None:
    dataset, vectors = small_sample(n_train=1500)
    trained = train_ctr(dataset, vectors, config, QUICK_TRAINING, CPU)
    module = begun(dataset, vectors, config, warm_start(trained, vectors))
    again = dataclasses.replace(trained, module=module)
    scores = score(again, dataset, dataset.valid, vectors, CPU)
    np.testing.assert_allclose(scores, trained.valid_scores, atol=1e-6)


def test_one_epoch_more_is_better_than_one_epoch_from_scratch() -> None:
    dataset, vectors = small_sample(n_train=2000)
    once = dataclasses.replace(QUICK_TRAINING, max_epochs=3, warm_share=1.0, warm_rate=1.0)
    first = train_ctr(dataset, vectors, SMALL_MODEL, once, CPU)
    start = warm_start(first, vectors)
    warm = train_ctr(dataset, vectors, SMALL_MODEL, once, CPU, warm_start=start)
    scratch = train_ctr(dataset, vectors, SMALL_MODEL, dataclasses.replace(once, max_epochs=1), CPU)
    assert (first.warm_start, warm.warm_start) == ("", "version-1")
    assert warm.history.epochs[-1].epoch == 1
    assert warm.metrics["valid_auc"] > scratch.metrics["valid_auc"] + 0.02


def test_the_last_rows_are_read_at_a_lower_rate() -> None:
    dataset, vectors = small_sample(n_train=2000)
    config = dataclasses.replace(QUICK_TRAINING, warm_share=0.2)
    start = warm_start(train_ctr(dataset, vectors, SMALL_MODEL, config, CPU), vectors)
    items, spec = (
        make(dataset_or_items, vectors, SMALL_MODEL)
        for make, dataset_or_items in ((item_features, dataset.items), (feature_spec, dataset))
    )
    trainer = CtrTrainer(dataset, items, spec, SMALL_MODEL, config, CPU, start)
    rows = dataclasses.replace(dataset.train, user_id=np.arange(2000, dtype=np.int32))
    read = trainer._read_rows(rows).user_id
    assert read.tolist() == list(range(1600, 2000))
    settings = warm_settings(config)
    assert settings.learning_rate == config.learning_rate * 0.2
    # A repeated run, which begins with these settings, changes them no more.
    assert warm_settings(settings) == settings


def test_in_logs_by_day_the_days_after_those_of_the_earlier_model_are_new() -> None:
    dataset, vectors = small_sample(n_train=500)
    start = warm_start(train_ctr(dataset, vectors, SMALL_MODEL, QUICK_TRAINING, CPU), vectors)
    by_day = {"2026-01-01": 200, "2026-01-02": 180, "2026-01-03": 70, "2026-01-05": 50}
    window = {"train_rows": by_day, "train_days": list(by_day)}
    daily = dataclasses.replace(dataset, provenance={"window": window})
    for last_train_day, n_old in (
        ("2025-12-31", 0),
        ("2026-01-02", 380),
        ("2026-01-04", 450),
        ("2026-01-05", 475),  # nothing is new, so the last twentieth
        ("", 475),
    ):
        earlier = dataclasses.replace(start, last_train_day=last_train_day)
        assert earlier.n_old_rows(daily, 0.05) == n_old
        assert earlier.n_old_rows(dataset, 0.05) == 475


def test_rows_of_users_and_items_are_found_by_their_ids() -> None:
    dataset, vectors = small_sample(n_train=1500)
    trained = train_ctr(dataset, vectors, DIN, QUICK_TRAINING, CPU)
    start = warm_start(trained, vectors)
    # In the new data the users have strings as ids in another order, and three are new.
    n_users = trained.spec.n_users - 1
    order = np.random.default_rng(2).permutation(n_users)
    earlier = IdMap(np.array([f"user {n:04}" for n in range(n_users)]), is_identity=False)
    kept = np.sort(order[:-3])
    ids = np.sort(np.concatenate([earlier.ids[kept], [f"new {n}" for n in range(3)]]))
    own = IdMap(ids, is_identity=False)
    start = dataclasses.replace(start, id_maps={"user_id": earlier})
    module = begun(dataclasses.replace(dataset, users=own), vectors, DIN, start)
    for name, new_row in (
        ("features.user_id.weight", start.state_dict["features.user_id.weight"][-1]),
        ("features.factors.user.weight", None),
    ):
        found, saved = module.state_dict()[name], start.state_dict[name]
        for row, user in enumerate(ids, start=1):
            if user.startswith("user"):
                old_row = 1 + int(np.flatnonzero(earlier.ids == user)[0])
                assert torch.equal(found[row], saved[old_row]), user
            elif new_row is not None:
                assert torch.equal(found[row], new_row)
        assert torch.equal(found[0], saved[0])


def test_a_model_that_does_not_fit_is_trained_from_scratch_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset, vectors = small_sample(n_train=500)
    trained = train_ctr(dataset, vectors, SMALL_MODEL, QUICK_TRAINING, CPU)
    start = warm_start(trained, vectors)
    other_vectors = dataclasses.replace(start, vectors={"fused": "another transform"})
    wider = dataclasses.replace(SMALL_MODEL, embedding_dim=8)
    semantic = DinSemanticIdsConfig(
        features=FeatureConfig(embedding_dim=8, level_embedding_dim=4, fused_vectors=False),
        hidden_dims=(16,), attention_hidden_dims=(8,), text_codes=False, image_codes=False,
        fused_codes=True,
    )  # fmt: skip
    for config, unusable, reason in (
        (wider, start, "the settings of the model differ"),
        (SMALL_MODEL, other_vectors, "it was trained on other fused vectors"),
        (
            semantic,
            dataclasses.replace(start, model_config=semantic),
            "din_semantic_ids fits codes",
        ),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            found = train_ctr(dataset, vectors, config, QUICK_TRAINING, CPU, warm_start=unusable)
        assert found.warm_start == ""
        assert f"from scratch, not with the weights of version-1: {reason}" in caplog.text
        assert found.training_config.max_epochs == QUICK_TRAINING.max_epochs
