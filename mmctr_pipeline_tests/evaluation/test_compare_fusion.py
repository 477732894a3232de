"""Comparing fusions: intervals by their definition, verdicts, and a run on a small world."""

import json
import math

import numpy as np
import pytest
import torch

from mmctr_pipeline.evaluation.compare_fusion import (
    METHODS,
    PairedDifference,
    compare_fusions,
    paired_difference,
    random_projection,
)
from mmctr_pipeline.fusion.config import AttentionConfig, FusionConfig
from mmctr_pipeline.metrics import auc, compare_auc
from mmctr_pipeline_tests.training.small_world import QUICK_TRAINING, SMALL_MODEL, small_world


def paired(low: float, high: float = 0.1, n_valid_rows: int = 50_000) -> PairedDifference:
    return PairedDifference((low + high) / 2, low, high, 0.001, 0.001, 5, n_valid_rows)


def test_the_verdict_follows_the_lower_end_of_the_interval() -> None:
    assert paired(1e-6).verdict == "better"
    assert paired(0.0).verdict == "not worse"
    assert paired(-0.0029).verdict == "not worse"
    assert paired(-0.003).verdict == "neither"
    assert paired(0.01, n_valid_rows=49_999).verdict == "too few rows"


def test_the_interval_holds_chance_of_seeds_and_of_rows() -> None:
    random = np.random.default_rng(4)
    label = random.integers(2, size=600)
    first = [label + s * random.standard_normal(600) for s in (0.8, 0.9, 1.0)]
    second = [label + s * random.standard_normal(600) for s in (1.5, 1.2, 1.4)]
    result = paired_difference(label, first, second)

    differences = [auc(label, a) - auc(label, b) for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / 3
    seeds = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2) / math.sqrt(3)
    errors = [compare_auc(label, a, b).standard_error for a, b in zip(first, second, strict=True)]
    rows = math.sqrt(sum(e**2 for e in errors) / 3)
    # 4.3027 and 1.9600 are the quantiles in the tables of Student's t and of the normal.
    half = math.sqrt((4.3027 * seeds) ** 2 + (1.9600 * rows) ** 2)
    assert result.difference == pytest.approx(mean)
    assert (result.low, result.high) == pytest.approx((mean - half, mean + half), rel=1e-3)
    assert (result.n_seeds, result.n_valid_rows) == (3, 600)
    # The same scores on both sides leave nothing to chance.
    assert paired_difference(label, first, first).high == 0
    with pytest.raises(ValueError, match="1 and 1 seeds"):
        paired_difference(label, first[:1], second[:1])
    with pytest.raises(ValueError, match="3 and 2 seeds"):
        paired_difference(label, first, second[:2])


def test_random_projections_keep_distances_roughly_and_follow_the_seed() -> None:
    _, text = small_world()
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


def test_all_methods_are_trained_with_each_seed_and_compared() -> None:
    dataset, vectors = small_world(n_train=1000, n_valid=400)
    vectors = vectors.aligned_to(dataset.items.item_id)
    fusion = FusionConfig(dim=8, attention=AttentionConfig(max_epochs=1, batch_size=64))
    lines: list[str] = []
    result = compare_fusions(
        dataset,
        vectors,
        vectors,
        fusion,
        SMALL_MODEL,
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
