"""A challenger is accepted or rejected by the intervals of paired differences, also on slices."""

import dataclasses

import numpy as np
import pytest

from mmctr_pipeline import metrics
from mmctr_pipeline.registry.comparison import compare_models
from mmctr_pipeline.registry.config import PromotionConfig

N_ROWS = 20_000
CONFIG = PromotionConfig()
GENERATOR = np.random.default_rng(5)
LABEL = (GENERATOR.random(N_ROWS) < 0.5).astype(np.int8)
NOISE = GENERATOR.standard_normal(N_ROWS)
CHAMPION = LABEL + NOISE


def challenger(distance: float, seed: int = 1) -> np.ndarray:
    """Return scores whose classes lie `distance` apart; those of the champion lie 1 apart."""
    own_noise = np.random.default_rng(seed).standard_normal(N_ROWS)
    return distance * LABEL + 0.95 * NOISE + np.sqrt(1 - 0.95**2) * own_noise


def test_equal_and_better_challengers_are_accepted() -> None:
    for scores in (CHAMPION, challenger(1.0), challenger(1.05)):
        assert compare_models(LABEL, scores, CHAMPION, None, {}, CONFIG).problems == ()


def test_the_lower_end_of_the_difference_decides() -> None:
    scores = challenger(0.97)
    paired = metrics.compare_auc(LABEL, scores, CHAMPION)
    low = paired.difference - 1.6448536 * paired.standard_error
    assert -0.02 < low < 0

    def problems(margin: float) -> tuple[str, ...]:
        config = dataclasses.replace(CONFIG, margin=margin)
        return compare_models(LABEL, scores, CHAMPION, None, {}, config).problems

    assert problems(-low + 1e-4) == ()
    (problem,) = problems(-low - 1e-4)
    assert problem.startswith(f"AUC {metrics.auc(LABEL, scores):.4f} against ")
    assert f"lower end {low:+.4f}, not above {low + 1e-4:.4f}" in problem


def test_too_few_rows_to_tell_mean_a_rejection_of_an_equal_challenger() -> None:
    rows = slice(0, 300)
    found = compare_models(LABEL[rows], challenger(1.0)[rows], CHAMPION[rows], None, {}, CONFIG)
    assert len(found.problems) == 1
    assert found.detectable > 0.01


def test_small_losses_that_add_up_are_noticed_by_the_best_model_ever_promoted() -> None:
    best = challenger(1.06, seed=2)
    found = compare_models(LABEL, challenger(1.0), CHAMPION, best, {}, CONFIG)
    (problem,) = found.problems
    assert "of the best model ever promoted" in problem
    assert "not above -0.0060" in problem


@pytest.mark.parametrize("n_rows", [999, 2000])
def test_a_slice_that_became_much_worse_rejects_if_it_has_enough_rows(n_rows: int) -> None:
    cold = np.arange(N_ROWS) < n_rows
    scores = challenger(1.1)
    scores[cold] = NOISE[cold]
    slices = {"cold items": cold, "the others": ~cold}
    problems = compare_models(LABEL, scores, CHAMPION, None, slices, CONFIG).problems
    named = [problem for problem in problems if problem.startswith("cold items (2,000 rows): AUC")]
    assert len(named) == (n_rows >= CONFIG.min_slice_rows)


@pytest.mark.slow
def test_slices_reject_an_equal_challenger_in_at_most_one_case_of_twenty() -> None:
    slice_N = np.arange(N_ROWS) % 8
    slices = {str(number): slice_N == number for number in range(8)}
    config = dataclasses.replace(CONFIG, margin=0.5, slice_margin=0.0)
    rejected = [
        bool(compare_models(LABEL, challenger(1.0, s), CHAMPION, None, slices, config).problems)
        for s in range(2, 102)
    ]
    # Holm's bound is 5 in 100; the chance of more than 11 at that rate is below 0.5 %.
    assert 0 < sum(rejected) <= 11


def test_a_slice_of_one_class_is_left_out() -> None:
    slices = {"clicks": LABEL == 1, "all": np.ones(N_ROWS, bool)}
    found = compare_models(LABEL, challenger(1.0), CHAMPION, None, slices, CONFIG)
    assert [each.name for each in found.slices] == ["all"]


def test_the_detectable_difference_is_promoted_in_four_of_five_cases() -> None:
    found = compare_models(LABEL, challenger(1.0), CHAMPION, None, {}, CONFIG)
    error = found.whole.standard_error
    # The difference must be 0.84 standard errors above the least one that passes.
    assert found.detectable == pytest.approx((1.6449 + 0.8416) * error - CONFIG.margin, abs=1e-6)
