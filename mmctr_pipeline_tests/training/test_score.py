"""Scoring: probabilities in order, whatever the batch size."""

import numpy as np
import pytest
import torch

from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.training.batches import BatchSource, item_features
from mmctr_pipeline.training.ctr import feature_spec
from mmctr_pipeline.training.score import score
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample


@pytest.fixture(name="scoring", scope="module")
def model_and_source() -> tuple[torch.nn.Module, BatchSource]:
    dataset, vectors = small_sample(n_valid=203)
    items = item_features(dataset.items, vectors, SMALL_MODEL)
    torch.manual_seed(0)
    model = build_model(SMALL_MODEL, feature_spec(dataset, vectors, SMALL_MODEL))
    # Away from the small initial tables, which would score all rows nearly alike.
    torch.nn.init.normal_(model.user_embedding.weight, std=3.0)
    torch.nn.init.normal_(model.item_embedding.weight, std=3.0)
    return model, BatchSource(dataset.test, dataset.histories, items, torch.device("cpu"))


def test_scores_are_the_sigmoid_of_the_logits_in_order(
    scoring: tuple[torch.nn.Module, BatchSource],
) -> None:
    model, source = scoring
    model.eval()
    with torch.no_grad():
        expected = [
            torch.sigmoid(model(source.batch(torch.tensor([row])))).item()
            for row in range(len(source))
        ]
    scores = score(model, source)
    assert scores.dtype == np.float32
    assert scores.shape == (203,)
    assert np.abs(scores - np.array(expected)).max() < 1e-6
    assert scores.std() > 0.05


def test_batch_size_changes_no_score(scoring: tuple[torch.nn.Module, BatchSource]) -> None:
    model, source = scoring
    assert (
        np.abs(score(model, source, batch_size=7) - score(model, source, batch_size=4096)).max()
        < 1e-6
    )


def test_scoring_runs_in_evaluation_mode_and_leaves_the_mode(
    scoring: tuple[torch.nn.Module, BatchSource],
) -> None:
    model, source = scoring
    model.train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = score(model, source)
    assert model.training
    assert np.array_equal(first, score(model, source))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
