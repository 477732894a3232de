"""The calibration map equals the fit of a general optimiser, is monotone, and bends as needed."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.optimize
import torch

from mmctr_pipeline.calibration import (
    CalibrationError,
    CalibrationMap,
    fit_calibration,
    saved_map,
)
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.metrics import auc, calibration

BENT = CalibrationMap(knots=(-1.0, 2.0), slopes=(0.5, 2.0, 0.1), intercept=0.3, n_rows=7)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def drawn_rows(n_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels drawn for them.

    The true logits, from which the labels are drawn, follow from the returned ones by a line with
    a bend at -1.
    """
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 2, n_rows)
    true = np.where(logits < -1, 0.2 * logits - 0.8, 1.3 * logits + 0.3)
    return logits, (generator.random(n_rows) < sigmoid(true)).astype(np.int8)


def apply(fitted: CalibrationMap, logits: np.ndarray) -> np.ndarray:
    return fitted(torch.from_numpy(logits)).numpy()


def plain_map(fitted: CalibrationMap, logit: float) -> float:
    """Return the value of the map at `logit`.

    The line of the first segment is followed as far as the first knot. The rise of each later
    segment, as far as `logit`, is added.
    """
    edges = [*fitted.knots, math.inf]
    value = fitted.intercept + fitted.slopes[0] * min(logit, edges[0])
    for low, high, slope in zip(edges, edges[1:], fitted.slopes[1:], strict=False):
        value += slope * max(0.0, min(logit, high) - low)
    return value


def test_the_map_is_continuous_and_piecewise_linear() -> None:
    logits = np.linspace(-5, 5, 101)
    expected = [plain_map(BENT, float(logit)) for logit in logits]
    np.testing.assert_allclose(apply(BENT, logits), expected, atol=1e-12)
    assert apply(BENT, np.array([-1.0])) == pytest.approx(0.3 - 0.5)


def plain_fits(
    fitted: CalibrationMap, logits: np.ndarray, label: np.ndarray
) -> list[tuple[float, np.ndarray]]:
    """For each weight of the prior, return the log evidence and the best parameters.

    A general optimiser finds them. Parameters are the intercept and the logarithms of the slopes.
    """

    def mapped(parameters: np.ndarray) -> np.ndarray:
        slopes = tuple(np.exp(parameters[1:]).tolist())
        trial = dataclasses.replace(fitted, intercept=float(parameters[0]), slopes=slopes)
        return apply(trial, logits)

    def fit(weight: float) -> tuple[float, np.ndarray]:
        def loss(parameters: np.ndarray) -> float:
            nats = np.logaddexp(0, mapped(parameters) * (1 - 2 * label)).sum()
            prior = parameters[1] ** 2 + weight * (np.diff(parameters[1:]) ** 2).sum()
            return float(nats + prior / 2)

        start = np.zeros(1 + len(fitted.slopes))
        best = scipy.optimize.minimize(loss, start, tol=1e-9).x
        probability, steps = sigmoid(mapped(best)), 1e-5 * np.eye(len(best))
        rows = np.array([(mapped(best + step) - mapped(best - step)) / 2e-5 for step in steps])
        information = (rows * probability * (1 - probability)) @ rows.T
        for slope in range(2, len(best)):
            difference = np.eye(len(best))[slope] - np.eye(len(best))[slope - 1]
            information += weight * np.outer(difference, difference)
        information[1, 1] += 1
        log_volume = np.log(np.linalg.det(information)) - (len(best) - 2) * math.log(weight)
        return -loss(best) - log_volume / 2, best

    return [fit(weight) for weight in (1, 10, 100, 1000)]


@pytest.mark.parametrize(("n_rows", "expected"), [(100, 1), (3_000, 0)])
def test_the_fit_is_the_best_under_the_prior_with_the_largest_evidence(
    n_rows: int, expected: int
) -> None:
    logits, label = drawn_rows(n_rows)
    logits = np.round(logits / 2) * 2  # few distinct logits, so few segments
    fitted = fit_calibration(logits, label)
    assert 2 <= len(fitted.slopes) <= 6
    fits = plain_fits(fitted, logits, label)
    best = max(range(4), key=lambda number: fits[number][0])
    assert best == expected
    found = [fitted.intercept, *np.log(fitted.slopes)]
    np.testing.assert_allclose(found, fits[best][1], atol=2e-3)


def test_logits_that_need_no_bend_get_a_nearly_straight_line() -> None:
    logits, label = drawn_rows(3_000)
    assert np.ptp(np.log(fit_calibration(logits, label).slopes)) > 1
    scaled = np.random.default_rng(1).random(3_000) < sigmoid(logits / 2 - 1)
    slopes = np.array(fit_calibration(logits, scaled).slopes)
    assert len(slopes) == 16
    assert slopes == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_any_map_is_strictly_monotone_and_keeps_the_auc(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.standard_cauchy(2_000) * 3
    label = (generator.random(2_000) < sigmoid(np.sin(logits) - seed)).astype(np.int8)
    fitted = fit_calibration(logits, label)
    calibrated = apply(fitted, np.sort(logits))
    assert (np.diff(calibrated) > 0).all()
    assert auc(label, apply(fitted, logits)) == pytest.approx(auc(label, logits), abs=1e-12)


def test_on_unseen_rows_the_calibration_error_is_within_chance() -> None:
    fitted = fit_calibration(*drawn_rows(20_000))
    logits, label = drawn_rows(4_000, seed=1)
    before, after = (
        calibration(label, sigmoid(scores)) for scores in (logits, apply(fitted, logits))
    )
    assert before.error > 0.05
    assert after.error < after.limit


def test_predictions_for_the_fitted_rows_add_up_to_their_clicks() -> None:
    logits, label = drawn_rows(3_000)
    fitted = fit_calibration(logits, label)
    assert sigmoid(apply(fitted, logits)).mean() == pytest.approx(label.mean(), abs=1e-5)


@pytest.mark.parametrize(
    "logits", [np.zeros(40), np.repeat([-30.0, 30.0], 20), np.repeat([30.0, -30.0], 20)]
)
def test_equal_separated_and_inverted_logits_still_give_a_map(logits: np.ndarray) -> None:
    fitted = fit_calibration(logits, np.repeat([0, 1], 20))
    assert np.isfinite(apply(fitted, logits)).all()
    assert (np.diff(apply(fitted, np.linspace(-40, 40, 99))) > 0).all()


def test_rows_that_allow_no_fit_are_refused() -> None:
    with pytest.raises(CalibrationError, match="0 of 3 rows have a click"):
        fit_calibration(np.arange(3.0), np.zeros(3))
    with pytest.raises(CalibrationError, match="1 logits are not finite"):
        fit_calibration(np.array([0, np.nan]), np.array([0, 1]))


def test_a_map_survives_saving() -> None:
    fitted = fit_calibration(*drawn_rows(1_000))
    assert saved_map(fitted.to_mapping()) == fitted
    assert saved_map(None) is None


@pytest.mark.parametrize(
    "change",
    [
        {"slopes": [0.5, -2.0, 0.1]},
        {"slopes": [0.5, 2.0]},
        {"slopes": [0.5, math.nan, 0.1]},
        {"knots": [2.0, -1.0]},
        {"knots": [2.0, 2.0]},
        {"intercept": "high"},
        {"intercept": math.inf},
        {"knots": None},
    ],
)
def test_damaged_maps_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(DamagedFileError, match="calibration is damaged"):
        saved_map({**BENT.to_mapping(), **change})
    with pytest.raises(DamagedFileError, match="'n_rows'"):
        saved_map({name: value for name, value in BENT.to_mapping().items() if name != "n_rows"})
