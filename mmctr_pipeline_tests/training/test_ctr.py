"""Training a CTR model: it learns, is reproducible, and refuses data without a defined AUC."""

import dataclasses

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.metrics import auc
from mmctr_pipeline.training.batch_source import BatchSource, item_features
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, TrainingDataError, train_ctr
from mmctr_pipeline.training.score import score
from mmctr_pipeline_tests.training.small_sample import (
    QUICK_TRAINING,
    SMALL_MODEL,
    VECTOR_DIM,
    small_sample,
)

CPU = torch.device("cpu")
WELL_TRAINED = TrainingConfig(max_epochs=5, batch_size=128, learning_rate=5e-3, precision="float32")


def train(
    dataset: CtrDataset, vectors: ItemVectors, training: TrainingConfig = QUICK_TRAINING
) -> TrainedCtr:
    return train_ctr(dataset, vectors, SMALL_MODEL, training, CPU)


@pytest.fixture(name="trained", scope="module")
def trained_well() -> TrainedCtr:
    return train(*small_sample(), WELL_TRAINED)


@pytest.fixture(name="quick", scope="module")
def trained_quickly() -> TrainedCtr:
    return train(*small_sample(n_train=2000))


def test_the_model_learns_what_unseen_users_like(trained: TrainedCtr) -> None:
    assert trained.metrics["valid_auc"] > 0.75
    assert trained.metrics["train_auc"] > 0.8


def test_metrics_are_those_of_the_returned_scores(trained: TrainedCtr) -> None:
    dataset, _ = small_sample()
    assert dataset.valid.label is not None
    assert trained.valid_scores.dtype == np.float32
    expected = auc(dataset.valid.label, trained.valid_scores)
    # The two computations sum in different orders.
    assert trained.metrics["valid_auc"] == pytest.approx(expected, rel=1e-12)
    measured_while_training = trained.history.best.metrics["valid_auc"]
    assert trained.metrics["valid_auc"] == pytest.approx(measured_while_training, rel=1e-12)
    assert (
        trained.metrics["valid_auc_low"]
        < trained.metrics["valid_auc"]
        < trained.metrics["valid_auc_high"]
    )
    assert trained.metrics["n_valid_positive"] == dataset.valid.label.sum()
    assert all(type(value) is float for value in trained.metrics.values())
    assert not trained.module.training


def test_table_sizes_come_from_all_splits_and_the_item_table() -> None:
    dataset, vectors = small_sample(n_train=300)
    dataset.test.user_id[3] = 777
    spec = train(dataset, vectors).spec
    assert (spec.n_users, spec.n_items, spec.vector_dim) == (778, 61, VECTOR_DIM)


def test_the_same_seed_gives_the_same_weights_bit_by_bit(quick: TrainedCtr) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    torch.rand(17)
    sample = small_sample(n_train=2000)
    drawn_before = torch.get_rng_state()
    again = train(*sample)
    assert torch.equal(torch.get_rng_state(), drawn_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    other = train(*sample, dataclasses.replace(QUICK_TRAINING, seed=43))
    for name, tensor in quick.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name
    assert np.array_equal(quick.valid_scores, again.valid_scores)
    assert not np.array_equal(quick.valid_scores, other.valid_scores)
    torch.set_rng_state(before)


def test_vectors_are_standardised_within_the_model(quick: TrainedCtr) -> None:
    dataset, vectors = small_sample(n_train=2000)
    fused = vectors.fused
    scaled = dataclasses.replace(fused, vectors=fused.vectors * 1000 + fused.present[:, None])
    other = train(dataset, ItemVectors(scaled))
    assert np.abs(quick.valid_scores - other.valid_scores).max() < 0.02


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("label", [0, 1])
def test_a_split_with_labels_of_one_class_is_refused(split: str, label: int) -> None:
    dataset, vectors = small_sample(n_train=300)
    rows = dataset.splits[split]
    one_class = dataclasses.replace(rows, label=np.full(len(rows), label, np.int8))
    with pytest.raises(TrainingDataError, match=f"{split}: all .* labels are of one class"):
        train(dataclasses.replace(dataset, **{split: one_class}), vectors)


def test_a_split_without_labels_is_refused() -> None:
    dataset, vectors = small_sample(n_train=300)
    with pytest.raises(TrainingDataError, match="valid: the split has no labels"):
        train(dataclasses.replace(dataset, valid=dataset.test), vectors)


def test_a_single_click_still_gives_a_train_auc() -> None:
    dataset, vectors = small_sample(n_train=300)
    label = np.zeros(300, np.int8)
    label[150] = 1
    rare = dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, label=label))
    assert 0 <= train(rare, vectors).metrics["train_auc"] <= 1


def test_bfloat16_reaches_the_same_auc_and_keeps_float32_weights(trained: TrainedCtr) -> None:
    dataset, vectors = small_sample()
    half = train(dataset, vectors, dataclasses.replace(WELL_TRAINED, precision="bfloat16"))
    expected = trained.metrics["valid_auc"]
    assert half.metrics["valid_auc"] == pytest.approx(expected, abs=0.01)
    assert half.history.epochs[0].train_loss != trained.history.epochs[0].train_loss
    assert {parameter.dtype for parameter in half.module.parameters()} == {torch.float32}
    assert half.valid_scores.dtype == np.float32
    # Scored in float32, the weights are as good.
    assert dataset.valid.label is not None
    items = item_features(dataset.items, vectors, SMALL_MODEL)
    scores = score(half.module, BatchSource(dataset.valid, dataset.histories, items, CPU))
    assert auc(dataset.valid.label, scores) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("weight_averaging", [0.0, 2.0])
def test_the_default_optimizer_trains_as_dense_adamw_does(weight_averaging: float) -> None:
    dataset, vectors = small_sample(n_train=1000)
    model = dataclasses.replace(SMALL_MODEL, dropout=0.0, multimodal_dropout=0.0)
    default = TrainingConfig(
        max_epochs=3, batch_size=128, precision="float32", weight_averaging=weight_averaging
    )
    ours, dense = (
        train_ctr(dataset, vectors, model, training, CPU).history.epochs
        for training in (default, dataclasses.replace(default, optimizer="adamw"))
    )
    assert default.optimizer != "adamw"
    for mine, plain in zip(ours, dense, strict=True):
        assert mine.train_loss == pytest.approx(plain.train_loss, rel=1e-4)
        assert mine.metrics["valid_log_loss"] == pytest.approx(
            plain.metrics["valid_log_loss"], rel=1e-3
        )


@pytest.mark.cuda
def test_training_on_a_gpu_learns() -> None:
    training = TrainingConfig(max_epochs=10, batch_size=128)
    trained = train_ctr(*small_sample(), SMALL_MODEL, training, torch.device("cuda:0"))
    assert next(trained.module.parameters()).device.type == "cuda"
    assert trained.metrics["valid_auc"] > 0.75
