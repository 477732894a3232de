"""Intervals of paired differences follow the definition; verdicts follow from the interval."""

import math

import numpy as np
import pytest

from mmctr_pipeline.comparison.statistics import AucDifference, paired_difference, verdict
from mmctr_pipeline.metrics import auc, compare_auc


def paired(low: float, high: float, n_valid_rows: int = 50_000) -> AucDifference:
    return AucDifference((low + high) / 2, low, high, n_valid_rows, verdict(low, n_valid_rows))


def test_the_verdict_follows_the_lower_end_of_the_interval() -> None:
    assert verdict(1e-6, 50_000) == "better"
    assert verdict(0.0, 50_000) == "not worse"
    assert verdict(-0.0029, 50_000) == "not worse"
    assert verdict(-0.003, 50_000) == "neither"


def test_better_needs_fewer_rows_than_not_worse() -> None:
    assert verdict(1e-6, 5_000) == "better"
    assert verdict(1e-6, 4_999) == "too few rows"
    assert verdict(0.0, 49_999) == "too few rows"
    assert verdict(1e-6, 1_000, is_slice=True) == "better"
    assert verdict(1e-6, 999, is_slice=True) == "too few rows"
    assert verdict(0.0, 49_999, is_slice=True) == "too few rows"
    assert verdict(0.0, 50_000, is_slice=True) == "not worse"


def test_is_equal_requires_both_ends_within_the_margin_and_enough_rows() -> None:
    assert paired(-0.0029, 0.0029).is_equal
    assert not paired(-0.0031, 0.001).is_equal
    assert not paired(-0.001, 0.0031).is_equal
    assert not paired(-0.001, 0.001, n_valid_rows=49_999).is_equal
    assert not paired(0.001, 0.002, n_valid_rows=49_999).is_equal


def test_the_interval_includes_variation_of_seeds_and_of_rows() -> None:
    random = np.random.default_rng(4)
    label = random.integers(2, size=600)
    first = [label + s * random.standard_normal(600) for s in (0.8, 0.9, 1.0)]
    second = [label + s * random.standard_normal(600) for s in (1.5, 1.2, 1.4)]
    result = paired_difference(label, first, second)

    differences = [auc(label, a) - auc(label, b) for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / 3
    seed_error = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2) / math.sqrt(3)
    errors = [compare_auc(label, a, b).standard_error for a, b in zip(first, second, strict=True)]
    row_error = math.sqrt(sum(e**2 for e in errors) / 3)
    # 4.3027 and 1.9600 are the tabulated quantiles of Student's t and of the normal distribution.
    half_width = math.sqrt((4.3027 * seed_error) ** 2 + (1.9600 * row_error) ** 2)
    expected = (mean - half_width, mean + half_width)
    assert result.difference == pytest.approx(mean)
    assert (result.low, result.high) == pytest.approx(expected, rel=1e-3)
    assert (result.verdict, result.p_value) == ("too few rows", None)
    # The difference of equal scores is exactly 0.
    assert paired_difference(label, first, first).high == 0
    with pytest.raises(ValueError, match="1 and 1 seeds"):
        paired_difference(label, first[:1], second[:1])
    with pytest.raises(ValueError, match="3 and 2 seeds"):
        paired_difference(label, first, second[:2])
