"""Comparing fusions: random projections, and a run on a small world."""

import json
import math

import numpy as np
import pytest
import torch

from mmctr_pipeline.comparison.fusions import (
    METHODS,
    compare_fusions,
    random_projection,
)
from mmctr_pipeline.fusion.config import AttentionConfig, FusionConfig
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline_tests.models.zoo import SMALL_MODELS
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL, small_sample


def test_random_projections_keep_distances_roughly_and_follow_the_seed() -> None:
    _, text = small_sample()
    text = text.aligned_to(np.arange(1, 61))
    projected = random_projection(text, text, 4000, 1, standardised=False)
    assert not projected.vectors[0].any()
    assert projected.present.tolist() == text.present.tolist()
    real = text.vectors[1:] - text.vectors[1:].mean(axis=0)
    lengths = np.linalg.norm(projected.vectors[1:], axis=1)
    np.testing.assert_allclose(lengths, math.sqrt(2) * np.linalg.norm(real, axis=1), rtol=0.15)
    standardised = random_projection(text, text, 4000, 1, standardised=True).vectors[1:]
    assert np.square(standardised).sum(axis=1).mean() == pytest.approx(2, rel=0.05)
    again, other = (random_projection(text, text, 8, s, standardised=False) for s in (1, 2))
    np.testing.assert_array_equal(
        again.vectors, random_projection(text, text, 8, 1, standardised=False).vectors
    )
    assert not np.array_equal(again.vectors, other.vectors)


# The second reads titles and covers beside the fused vectors.
@pytest.mark.parametrize("model", [SMALL_MODEL, SMALL_MODELS["similarity_attention"]])
def test_all_methods_are_trained_with_each_seed_and_compared(model: ModelConfig) -> None:
    dataset, vectors = small_sample(n_train=1000, n_valid=400)
    vectors = vectors.aligned_to(dataset.items.item_id)
    fusion = FusionConfig(dim=8, attention=AttentionConfig(max_epochs=1, batch_size=64))
    lines: list[str] = []
    result = compare_fusions(
        dataset,
        vectors,
        vectors,
        fusion,
        model,
        QUICK_TRAINING,
        (1, 2),
        torch.device("cpu"),
        lines.append,
    )
    assert set(result.auc) == set(METHODS)
    values = [value for of_seeds in result.auc.values() for value in of_seeds]
    assert len(set(values)) == 2 * len(METHODS)
    record = json.loads(json.dumps(result.to_mapping()))
    first, second = record["valid_auc"]["attention"], record["valid_auc"]["pca"]
    mean = sum(a - b for a, b in zip(first, second, strict=True)) / 2
    assert record["differences"]["attention - pca"]["difference"] == pytest.approx(mean)
    assert record["differences"]["attention - pca"]["verdict"] == "too few rows"
    assert len(result.lines()) == len(METHODS) + 3
    assert "seed 2: random standardised" in lines
