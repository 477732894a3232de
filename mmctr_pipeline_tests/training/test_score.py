"""Scores are probabilities in the order of the rows, for any batch size."""

import numpy as np
import pytest
import torch

from mmctr_pipeline.models.improved_mmctr import ImprovedMmctr
from mmctr_pipeline.training.batch_source import BatchSource, feature_spec, item_features
from mmctr_pipeline.training.score import score
from mmctr_pipeline_tests.models.zoo import (
    SMALL_MODELS,
    random_items,
    random_train_rows,
    small_model,
)
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample

Scoring = tuple[ImprovedMmctr, BatchSource]


@pytest.fixture(name="scoring", scope="module")
def model_and_source() -> Scoring:
    dataset, vectors = small_sample(n_valid=203)
    items = item_features(dataset.items, vectors, SMALL_MODEL)
    torch.manual_seed(0)
    model = ImprovedMmctr(SMALL_MODEL, feature_spec(dataset, vectors, SMALL_MODEL))
    # The small initial tables would score all rows nearly alike.
    for table in (model.user_embedding, model.item_embedding):
        torch.nn.init.normal_(table.weight, std=3.0)
    return model, BatchSource(dataset.test, dataset.histories, items, torch.device("cpu"))


def test_scores_are_the_sigmoid_of_the_logits_in_order(scoring: Scoring) -> None:
    model, source = scoring
    model.eval()
    with torch.no_grad():
        expected = [torch.sigmoid(model(batch)).item() for batch in source.in_order(1)]
    scores = score(model, source)
    assert scores.dtype == np.float32
    assert scores.shape == (203,)
    assert np.abs(scores - np.array(expected)).max() < 1e-5
    assert scores.std() > 0.05


def test_scores_do_not_depend_on_the_batch_size(scoring: Scoring) -> None:
    model, source = scoring
    small, large = (score(model, source, batch_size=size) for size in (7, 4096))
    assert np.abs(small - large).max() < 1e-5


def test_scoring_runs_in_evaluation_mode_and_restores_the_mode(scoring: Scoring) -> None:
    model, source = scoring
    model.train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = score(model, source)
    assert model.training
    assert np.array_equal(first, score(model, source))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", sorted(SMALL_MODELS))
def test_no_rows_have_no_scores(name: str) -> None:
    items, (train, histories) = random_items(), random_train_rows()
    source = BatchSource(train.take(np.arange(0)), histories, items, torch.device("cpu"))
    assert score(small_model(name, items), source).shape == (0,)
