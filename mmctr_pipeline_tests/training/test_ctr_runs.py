"""The final fit: what it trains on and for how long, and that nothing else of the result moves."""

import dataclasses
import logging
import math

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import DinConfig
from mmctr_pipeline.training.batches import BatchSource, item_features
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, feature_spec, train_ctr
from mmctr_pipeline.training.ctr_runs import CtrRuns, joined
from mmctr_pipeline.training.device import seeded
from mmctr_pipeline.training.loop import Validation
from mmctr_pipeline.training.score import score
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample
from mmctr_pipeline_tests.training.test_losses import plain_pairwise_loss

CPU = torch.device("cpu")
TRAINING = TrainingConfig(
    seed=1,
    max_epochs=6,
    batch_size=128,
    patience=1,
    validations_per_epoch=2,
    precision="float32",
    restart_epochs=1,
    learning_rate=0.003,
)
WORLD = {"n_train": 700, "n_valid": 300}


def train(config: TrainingConfig) -> TrainedCtr:
    return train_ctr(*small_sample(**WORLD), SMALL_MODEL, config, CPU)


@pytest.fixture(name="selected", scope="module")
def selection_alone() -> TrainedCtr:
    return train(TRAINING)


class Lines(logging.Handler):
    """Keeps the lines that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def train_and_listen(config: TrainingConfig) -> tuple[TrainedCtr, list[str]]:
    handler, package = Lines(), logging.getLogger("mmctr_pipeline")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        return train(config), handler.lines
    finally:
        package.removeHandler(handler)


@pytest.fixture(name="final_and_lines", scope="module")
def with_final_fit_and_its_log() -> tuple[TrainedCtr, list[str]]:
    return train_and_listen(dataclasses.replace(TRAINING, final_fit=True))


@pytest.fixture(name="final", scope="module")
def with_final_fit(final_and_lines: tuple[TrainedCtr, list[str]]) -> TrainedCtr:
    return final_and_lines[0]


@pytest.fixture(name="lines", scope="module")
def log_of_the_final_fit(final_and_lines: tuple[TrainedCtr, list[str]]) -> list[str]:
    return final_and_lines[1]


def test_what_is_recorded_is_of_the_selection_run(selected: TrainedCtr, final: TrainedCtr) -> None:
    timed = ("train_rows_per_second",)
    for name in set(selected.metrics) - set(timed):
        assert final.metrics[name] == selected.metrics[name], name
    assert final.evaluation == selected.evaluation
    assert np.array_equal(final.valid_scores, selected.valid_scores)
    assert final.history.best_epoch == selected.history.best_epoch
    assert [r.metrics for r in final.history.epochs] == [r.metrics for r in selected.history.epochs]
    assert selected.final_fit is None


def test_the_model_is_that_of_train_and_valid_rows(selected: TrainedCtr, final: TrainedCtr) -> None:
    """The reference is an ordinary run on both that is told the values of the selection run."""
    history = selected.history
    n_parts = round(history.best_epoch * 2)
    assert 1 < n_parts < len(history.epochs)
    values = [record.metrics["valid_auc"] for record in history.epochs]

    dataset, vectors = small_sample(**WORLD)
    n_seen = 0
    weights: dict[str, torch.Tensor] = {}

    def told(module: torch.nn.Module) -> dict[str, float]:
        nonlocal n_seen, weights
        n_seen += 1
        if n_seen == n_parts:
            weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        return {"valid_auc": values[n_seen - 1]}

    items = item_features(dataset.items, vectors, SMALL_MODEL)
    both = joined(dataset.train, dataset.valid)
    runs = CtrRuns(dataset.histories, items, selected.spec, SMALL_MODEL, TRAINING, CPU)
    runs.fit(both, Validation(told, "valid_auc"))
    for name, tensor in final.module.state_dict().items():
        assert torch.equal(tensor, weights[name]), name

    assert final.final_fit is not None
    assert final.final_fit.n_rows == 1000
    assert final.final_fit.n_epochs == history.best_epoch
    assert final.final_fit.seconds > 0
    assert not final.module.training


def test_the_scores_of_the_returned_model_are_not_those_recorded(final: TrainedCtr) -> None:
    dataset, vectors = small_sample(**WORLD)
    items = item_features(dataset.items, vectors, SMALL_MODEL)
    source = BatchSource(dataset.valid, dataset.histories, items, CPU)
    assert not np.array_equal(score(final.module, source, "float32"), final.valid_scores)


def test_progress_says_which_of_the_two_runs_it_is(final: TrainedCtr, lines: list[str]) -> None:
    assert final.final_fit is not None
    of_epochs = [line for line in lines if ": train loss" in line]
    n_selection = len(final.history.epochs)
    assert all(line.startswith("selection: epoch ") for line in of_epochs[:n_selection])
    assert all(line.startswith("final fit: epoch ") for line in of_epochs[n_selection:])
    assert len(of_epochs) == n_selection + round(2 * final.final_fit.n_epochs)
    assert not any("valid_auc" in line or "best" in line for line in of_epochs[n_selection:])
    assert "final fit: 1,000 train and valid rows" in "\n".join(lines)


def test_a_run_without_a_final_fit_is_not_called_a_selection() -> None:
    _, lines = train_and_listen(dataclasses.replace(TRAINING, max_epochs=1))
    assert not any(line.startswith(("selection", "final fit")) for line in lines)


def only_in_valid(dataset: CtrDataset, item: int, user: int) -> CtrDataset:
    """Return the dataset with an item and a user that stand in one valid row and nowhere else."""
    valid = dataclasses.replace(
        dataset.valid,
        item_id=dataset.valid.item_id.copy(),
        user_id=dataset.valid.user_id.copy(),
    )
    valid.item_id[5], valid.user_id[5] = item, user
    items = dataset.items
    more = dataclasses.replace(
        items,
        item_id=np.append(items.item_id, np.int32(item)),
        likes_level=np.append(items.likes_level, np.int8(0)),
        views_level=np.append(items.views_level, np.int8(0)),
        tags=type(items.tags).from_lists([*items.tags, [1]]),
    )
    return dataclasses.replace(dataset, valid=valid, items=more)


@pytest.mark.parametrize("final_fit", [False, True])
def test_statistics_are_of_train_and_valid_rows_in_the_final_fit_alone(final_fit: bool) -> None:
    dataset, vectors = small_sample(n_train=300, n_valid=200)
    dataset = only_in_valid(dataset, item=61, user=500)
    training = dataclasses.replace(TRAINING, max_epochs=1, final_fit=final_fit)
    trained = train_ctr(dataset, vectors, DinConfig(), training, CPU)
    state = trained.module.state_dict()
    assert bool(state["features.known_items_I"][61]) is final_fit
    assert bool(state["features.known_users_U"][500]) is final_fit


def test_in_batch_negatives_are_not_learned_by_heart() -> None:
    config = dataclasses.replace(TRAINING, patience=6, learning_rate=0.02)
    as_they_are, in_batch, again = (
        train(dataclasses.replace(config, in_batch_negatives=share)).history.epochs[-1].train_loss
        for share in (0.0, 1.0, 1.0)
    )
    assert in_batch > as_they_are + 0.05
    assert in_batch == again


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_is_cross_entropy_and_pairwise_loss_by_weight(weight: float) -> None:
    """One batch is one epoch here, so that its loss is that of the first weights."""
    dataset, vectors = small_sample(n_train=60, n_valid=2)
    items, spec = (
        item_features(dataset.items, vectors, SMALL_MODEL),
        feature_spec(dataset, vectors, SMALL_MODEL),
    )
    model = dataclasses.replace(SMALL_MODEL, dropout=0.0, multimodal_dropout=0.0)
    training = dataclasses.replace(
        TRAINING,
        max_epochs=1,
        validations_per_epoch=1,
        label_smoothing=0.2,
        pairwise_weight=weight,
    )
    runs = CtrRuns(dataset.histories, items, spec, model, training, CPU)
    with seeded(training.seed, CPU), torch.no_grad():
        module = build_model(model, spec).train()
        module.fit_statistics(items, dataset.train, dataset.histories)
        (batch,) = runs.source(dataset.train).shuffled(training.batch_size, training.seed, epoch=1)
        logits, labels = module(batch).tolist(), batch.label_B.tolist()
    # Smoothed by 0.2: targets of 0.1 and 0.9.
    pointwise = sum(
        math.log1p(math.exp(logit)) - (0.9 if label else 0.1) * logit
        for logit, label in zip(logits, labels, strict=True)
    ) / len(labels)
    pairwise = plain_pairwise_loss(logits, labels)
    assert abs(pointwise - pairwise) > 0.02

    validation = Validation(lambda module: {"valid_auc": 0.5}, "valid_auc")
    _, history = runs.fit(dataset.train, validation)
    expected = (1 - weight) * pointwise + weight * pairwise
    assert history.epochs[0].train_loss == pytest.approx(expected, rel=1e-5)
