"""Likely causes of an AUC no better than chance are named; a run with each cause tests it."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.config import DinConfig, FeatureConfig
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample

TRAINING = TrainingConfig(
    max_epochs=3, patience=3, batch_size=100, learning_rate=5e-3, precision="float32"
)
CPU = torch.device("cpu")


def train(
    dataset: CtrDataset, vectors: ItemVectors, training: TrainingConfig = TRAINING
) -> TrainedCtr:
    return train_ctr(dataset, vectors, SMALL_MODEL, training, CPU)


def relabelled(split: Split, label: np.ndarray) -> Split:
    return dataclasses.replace(split, label=label.astype(np.int8))


def shuffled(split: Split, seed: int = 0) -> Split:
    assert split.label is not None
    return relabelled(split, np.random.default_rng(seed).permutation(split.label))


def likely_causes(trained: TrainedCtr) -> str:
    """Return all causes, after checking that the AUC is no better than chance."""
    assert trained.metrics["valid_auc_low"] <= 0.5
    assert trained.likely_causes
    return "\n".join(trained.likely_causes)


def test_a_good_auc_has_no_likely_causes(caplog: pytest.LogCaptureFixture) -> None:
    assert train(*small_sample(n_train=3500)).likely_causes == ()
    assert "chance" not in caplog.text


def test_shuffled_train_labels_are_named_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    dataset, vectors = small_sample(n_train=3500, n_valid=1000)
    trained = train(dataclasses.replace(dataset, train=shuffled(dataset.train)), vectors)
    assert "may be shuffled" in likely_causes(trained)
    warnings = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    start = "the valid AUC is no better than chance; a likely cause: "
    assert warnings == [f"{start}{cause}" for cause in trained.likely_causes]


@pytest.mark.slow
def test_shuffled_valid_labels_of_a_model_that_learns_are_named() -> None:
    dataset, vectors = small_sample(n_train=3500, n_valid=1000)
    trained = train(dataclasses.replace(dataset, valid=shuffled(dataset.valid)), vectors)
    assert trained.metrics["train_auc"] > 0.6
    causes = likely_causes(trained)
    assert f"the model fits the train rows (AUC {trained.metrics['train_auc']:.4f}), but" in causes
    assert "reversed" not in causes


def test_reversed_valid_labels_are_named() -> None:
    dataset, vectors = small_sample(n_train=3500, n_valid=1000)
    assert dataset.valid.label is not None
    valid = relabelled(dataset.valid, 1 - dataset.valid.label)
    trained = train(dataclasses.replace(dataset, valid=valid), vectors)
    causes = likely_causes(trained)
    assert f"the order is reversed (1 - AUC is {1 - trained.metrics['valid_auc']:.4f}" in causes
    assert "shuffled" not in causes


def test_a_learning_rate_that_is_too_high_is_named() -> None:
    dataset, vectors = small_sample(n_train=3500, n_valid=1000)
    training = dataclasses.replace(
        TRAINING, learning_rate=10.0, gradient_clip_norm=1e9, weight_decay=0.0
    )
    dataset = dataclasses.replace(dataset, train=shuffled(dataset.train))
    trained = train(dataset, vectors, training)
    causes = likely_causes(trained)
    peak = max(trained.history.epochs, key=lambda record: record.train_loss)
    assert peak.train_loss > 2
    assert f"the train loss was {peak.train_loss:.4g} in epoch {peak.epoch:g}, above" in causes
    assert "training.learning_rate (10) may be too high" in causes
    norm = max(record.largest_gradient_norm or 0 for record in trained.history.epochs)
    assert f"gradient norms up to {norm:.3g}" in causes


@pytest.mark.slow
def test_a_learning_rate_that_is_too_low_is_named() -> None:
    rates = {"learning_rate": 1e-9, "multimodal_learning_rate": 1e-9, "min_learning_rate": 0.0}
    dataset, vectors = small_sample(n_train=3500, n_valid=1000)
    dataset = dataclasses.replace(dataset, valid=shuffled(dataset.valid))
    trained = train(dataset, vectors, dataclasses.replace(TRAINING, **rates))
    causes = likely_causes(trained)
    assert "no epoch had a higher learning rate than 1e-09" in causes
    assert "too high" not in causes


def test_too_few_steps_are_named() -> None:
    dataset, vectors = small_sample(n_train=3500, n_valid=1000)
    dataset = dataclasses.replace(
        dataset, train=shuffled(dataset.train), valid=shuffled(dataset.valid)
    )
    training = dataclasses.replace(TRAINING, batch_size=1750, max_epochs=1)
    trained = train(dataset, vectors, training)
    assert "took only 2 steps: lower training.batch_size (1,750)" in likely_causes(trained)


def test_missing_vectors_and_cold_targets_are_named() -> None:
    dataset, vectors = small_sample(n_train=3500, n_valid=1000)
    is_known = dataset.histories.values <= 30
    lengths = np.add.reduceat(np.append(is_known, False), dataset.histories.offsets[:-1])
    lengths[np.diff(dataset.histories.offsets) == 0] = 0
    histories = dataclasses.replace(
        dataset.histories,
        values=dataset.histories.values[is_known],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(dataset.histories.offsets.dtype),
    )
    dataset = dataclasses.replace(
        dataset,
        train=dataset.train.take(dataset.train.item_id <= 30),
        valid=shuffled(dataset.valid.take(dataset.valid.item_id > 30)),
        histories=histories,
    )
    masked = dataclasses.replace(vectors.fused, vectors=np.zeros_like(vectors.fused.vectors))
    causes = likely_causes(train(dataset, ItemVectors(masked)))
    assert "only 0 of 60 items have a fused vector that is not zero" in causes
    assert "100% of the valid rows have a target that no train row has" in causes

    # A model that does not read these vectors does not miss them.
    features = FeatureConfig(fused_vectors=False, embedding_dim=4, level_embedding_dim=4)
    model = DinConfig(features=features, attention_hidden_dims=(4,), hidden_dims=(4,))
    trained = train_ctr(dataset, ItemVectors(masked), model, TRAINING, CPU)
    assert "fused vector" not in "".join(trained.likely_causes)


def test_equal_scores_and_few_rows_are_named() -> None:
    dataset, vectors = small_sample(n_train=600, n_valid=60)
    dataset = dataclasses.replace(dataset, valid=shuffled(dataset.valid))
    items = FeatureConfig(
        item_tags=False, context_levels=False, embedding_dim=1, unknown_rate=0.99, max_history=1
    )
    model = DinConfig(
        features=dataclasses.replace(items, fused_vectors=False),
        attention_hidden_dims=(1,),
        hidden_dims=(1,),
    )
    training = dataclasses.replace(TRAINING, learning_rate=1e-6, max_epochs=1)
    trained = train_ctr(dataset, vectors, model, training, CPU)
    causes = likely_causes(trained)
    assert "the interval is wide: valid has only " in causes
    spread = np.ptp(trained.valid_scores)
    assert ("all valid rows have nearly the same score" in causes) == bool(spread < 1e-3)
