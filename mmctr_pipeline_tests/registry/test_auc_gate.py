"""The AUC gate: baselines, floors, and explanations that name the best baseline."""

import dataclasses
import math
from typing import Any

import pytest

from mmctr_pipeline.data.known import MICROLENS_1M_X1
from mmctr_pipeline.registry.auc_gate import judge_auc
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE


def _model(difference: float, low: float, **changes: Any) -> ModelFile:
    """Return a model whose AUC is higher than that of click rates by `difference`.

    `low` is the lower bound of the difference.
    """
    rates = {"auc": 0.81234 - difference, "difference": difference, "low": low}
    baselines = {**MODEL_FILE.baselines, "rates": rates}
    return dataclasses.replace(MODEL_FILE, baselines=baselines, **changes)


def test_a_model_passes_if_it_is_significantly_better_than_the_best_baseline() -> None:
    verdict = judge_auc(MODEL_FILE)
    assert verdict.passed
    assert verdict.explanation == (
        "valid AUC 0.8123 is above the best trivial baseline (click rates 0.7800): difference "
        "+0.0323, one-sided 95 % lower bound +0.0200; title cosine is undefined: no titles"
    )
    assert verdict.numbers["best baseline"] == "click rates"
    assert verdict.numbers["lower bound of the difference"] == 0.02


@pytest.mark.parametrize(
    ("difference", "low", "words"),
    [
        (-0.0384, -0.0421, "is not above the best trivial baseline (click rates 0.8507)"),
        (0.0, 0.0, "is not above"),
        (0.001, -0.0001, "is not significantly above"),
        (0.001, 0.0, "is not significantly above"),
        (0.001, math.nan, "has no usable baselines"),
    ],
)
def test_a_model_that_is_not_significantly_better_fails(
    difference: float, low: float, words: str
) -> None:
    verdict = judge_auc(_model(difference, low))
    assert not verdict.passed
    assert words in verdict.explanation
    assert "checks.beat_baselines" in verdict.explanation
    allowed = judge_auc(_model(difference, low), beat_baselines=False)
    assert allowed.passed
    assert allowed.explanation == "valid AUC 0.8123 has no floor to reach"


def test_a_floor_applies_in_addition_to_the_baselines() -> None:
    both = judge_auc(MODEL_FILE, auc_floor=0.8)
    assert both.passed
    assert both.explanation.endswith("; it reaches the floor 0.8000 (checks.auc_floor)")
    below = judge_auc(MODEL_FILE, auc_floor=0.9)
    assert not below.passed
    assert "above the best trivial" in below.explanation
    assert "it is below the floor 0.9000" in below.explanation
    alone = judge_auc(_model(-0.1, -0.2), auc_floor=0.81234, beat_baselines=False)
    assert alone.passed
    assert alone.explanation == "valid AUC 0.8123 reaches the floor 0.8123 (checks.auc_floor)"


def test_only_microlens_1m_x1_has_a_default_floor() -> None:
    model = dataclasses.replace(MODEL_FILE, data_name=MICROLENS_1M_X1)
    verdict = judge_auc(model)
    assert not verdict.passed
    assert "is below the floor 0.8500 (the default for MicroLens_1M_x1" in verdict.explanation
    assert judge_auc(model, auc_floor=0.7).passed
    assert judge_auc(dataclasses.replace(model, data_name="other")).passed


def test_a_model_without_any_baseline_fails_and_the_reasons_are_given() -> None:
    absent = {"popularity": "one row of a class", "rates": "one row of a class"}
    verdict = judge_auc(dataclasses.replace(MODEL_FILE, baselines={}, absent_baselines=absent))
    assert not verdict.passed
    assert "click rates is undefined: one row of a class" in verdict.explanation


@pytest.mark.parametrize("metrics", [{}, {"valid_auc": math.nan}])
def test_a_model_without_usable_metrics_fails(metrics: dict[str, float]) -> None:
    recorded = {**dict.fromkeys(metrics, 0.0), **metrics}
    verdict = judge_auc(dataclasses.replace(MODEL_FILE, metrics=recorded), beat_baselines=False)
    assert not verdict.passed
    assert "no usable valid_auc, valid_auc_low" in verdict.explanation


def test_the_verdict_names_the_measured_run_and_likely_causes_of_an_auc_at_chance() -> None:
    model = dataclasses.replace(
        MODEL_FILE, final_fit={"n_rows": 1}, likely_causes=["few rows", "no vectors"]
    )
    explanation = judge_auc(model).explanation
    assert "0.8123 (of the selection run, before the final fit on train and valid" in explanation
    assert "It is no better than chance. Likely causes: few rows; no vectors" in explanation
