"""A strictly monotone map of logits, fitted on labelled rows, that calibrates a model."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mmctr_pipeline.files.errors import DamagedFileError

_SEGMENTS = (1, 2, 4, 8)
"""Numbers of segments that are tried."""
_STEPS = 100
_DECIMALS = 6
"""Fitted values are rounded, so that the last digits of a sum do not matter."""


class CalibrationError(ValueError):
    """A calibration map cannot be fitted, or would change the order of rows."""


@dataclasses.dataclass(frozen=True)
class CalibrationMap:
    """A continuous piecewise linear map of logits with positive slopes.

    `slopes` has one entry per segment; segments meet at `knots`, ascending logits, one fewer. The
    line of the first segment has `intercept` at logit 0. `n_rows` is the number of rows it was
    fitted on. With one segment it is Platt scaling (Platt, "Probabilistic outputs for support
    vector machines", 1999).
    """

    knots: tuple[float, ...]
    slopes: tuple[float, ...]
    intercept: float
    n_rows: int

    def __post_init__(self) -> None:
        """Raise `CalibrationError` unless the map is finite and strictly increasing."""
        numbers = (*self.knots, *self.slopes, self.intercept)
        if len(self.slopes) != len(self.knots) + 1 or not all(map(math.isfinite, numbers)):
            raise CalibrationError(
                f"a calibration map needs finite numbers and one more slope than knots, not "
                f"{len(self.slopes)} slopes and {len(self.knots)} knots"
            )
        if min(self.slopes) <= 0 or list(self.knots) != sorted(set(self.knots)):
            raise CalibrationError(
                "a calibration map needs positive slopes and ascending knots: otherwise it would "
                "change the order of rows"
            )

    def to_mapping(self) -> dict[str, Any]:
        """Return plain lists and scalars."""
        mapping = dataclasses.asdict(self)
        return {**mapping, "knots": list(self.knots), "slopes": list(self.slopes)}

    def __call__(self, logits_B: torch.Tensor) -> torch.Tensor:
        """Return calibrated logits, `(B,) float64`, of `(B,)` logits."""
        logits_B = logits_B.double()
        calibrated_B = torch.full_like(logits_B, self.intercept)
        for slope, (low, high) in zip(self.slopes, _bounds(self.knots), strict=True):
            part_B = logits_B.clamp(low, high)
            calibrated_B += slope * (part_B if low == -math.inf else part_B - low)
        return calibrated_B


def saved_map(mapping: Mapping[str, Any] | None) -> CalibrationMap | None:
    """Return the map of `CalibrationMap.to_mapping`, None for None.

    Raises `DamagedFileError` for anything else.
    """
    if mapping is None:
        return None
    try:
        return CalibrationMap(
            knots=tuple(float(each) for each in mapping["knots"]),
            slopes=tuple(float(each) for each in mapping["slopes"]),
            intercept=float(mapping["intercept"]),
            n_rows=int(mapping["n_rows"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedFileError(f"the model's calibration is damaged: {error!r}") from error


def fit_calibration(logits: np.ndarray, label: np.ndarray) -> CalibrationMap:
    """Return the map that makes N rows most likely, with as many segments as they justify.

    Segments hold equally many rows. Each number of segments (1, 2, 4, 8) is fitted by penalised
    maximum likelihood; the Bayesian information criterion (Schwarz 1978) chooses among them, so
    few rows get a simple map. Raises `CalibrationError` for rows of one class and for logits that
    are not finite.

    Parameters
    ----------
    logits
        Logits of the rows, `(N,)`.
    label
        Their labels, `(N,)`, 0 or 1.
    """
    logits_N, label_N = np.asarray(logits, np.float64), np.asarray(label, np.float64)
    if not np.isfinite(logits_N).all():
        raise CalibrationError(f"{int((~np.isfinite(logits_N)).sum())} logits are not finite")
    n_rows, n_clicks = len(label_N), int((label_N == 1).sum())
    if n_clicks in (0, n_rows):
        raise CalibrationError(f"{n_clicks} of {n_rows} rows have a click: both classes are needed")
    fits = []
    for n_segments in _SEGMENTS:
        knots = np.quantile(logits_N, np.arange(1, n_segments) / n_segments)
        if n_segments > 1 and (np.diff(knots, prepend=logits_N.min()) < 1e-3).any():
            break  # too many rows have nearly the same logit
        objective, fitted = _fit(logits_N, label_N, knots.tolist())
        fits.append((objective + (n_segments + 1) / 2 * math.log(n_rows), fitted))
    return min(fits, key=lambda fit: fit[0])[1]


def _bounds(knots: Sequence[float]) -> list[tuple[float, float]]:
    """Return where each segment begins and ends."""
    return list(zip((-math.inf, *knots), (*knots, math.inf), strict=True))


def _fit(
    logits_N: np.ndarray, label_N: np.ndarray, knots: Sequence[float]
) -> tuple[float, CalibrationMap]:
    """Return the lowest objective and its map, by Fisher scoring with step halving.

    The parameters are the intercept and the logarithms of the slopes, which keeps slopes positive.
    """
    parts_KN = [
        np.clip(logits_N, low, high) - (0 if low == -math.inf else low)
        for low, high in _bounds(knots)
    ]
    parameters = np.zeros(1 + len(parts_KN))
    lowest = _objective(parameters, parts_KN, label_N)
    for _ in range(_STEPS):
        step = _fisher_step(parameters, parts_KN, label_N)
        while (found := _objective(parameters - step, parts_KN, label_N)) > lowest:
            step = step / 2
            if np.abs(step).max() < 1e-12:
                break
        gain = lowest - found
        if gain < 1e-9:
            break
        parameters, lowest = parameters - step, found
    slopes = np.round(np.exp(parameters[1:]), _DECIMALS).clip(10.0**-_DECIMALS)
    intercept = round(float(parameters[0]), _DECIMALS)
    return lowest, CalibrationMap(tuple(knots), tuple(slopes.tolist()), intercept, len(label_N))


def _objective(
    parameters: np.ndarray, parts_KN: Sequence[np.ndarray], label_N: np.ndarray
) -> float:
    """Return the negative log-likelihood plus the penalty, in nats.

    The penalty is half the sum of squared differences of the logarithms of neighbouring slopes; 0,
    the identity's, precedes the first one.
    """
    mapped_N = _mapped(parameters, parts_KN)
    penalty = 0.5 * (np.diff(parameters[1:], prepend=0) ** 2).sum()
    return float((np.logaddexp(0, mapped_N) - label_N * mapped_N).sum() + penalty)


def _fisher_step(
    parameters: np.ndarray, parts_KN: Sequence[np.ndarray], label_N: np.ndarray
) -> np.ndarray:
    """Return the step to subtract, in which no slope changes by more than a factor of e**2.

    Rows are summed without matrix products, whose last digits depend on the number of threads.
    """
    n_slopes = len(parts_KN)
    difference = np.eye(n_slopes, n_slopes + 1, k=1) - np.eye(n_slopes, n_slopes + 1)
    difference[0, 0] = 0
    probability_N = np.exp(-np.logaddexp(0, -_mapped(parameters, parts_KN)))
    slopes = np.exp(parameters[1:])
    columns = [np.ones_like(label_N), *(s * p for s, p in zip(slopes, parts_KN, strict=True))]
    residual_N, weight_N = probability_N - label_N, probability_N * (1 - probability_N)
    gradient = np.array([(column * residual_N).sum() for column in columns])
    information = np.array([[(a * b * weight_N).sum() for b in columns] for a in columns])
    step: np.ndarray = np.linalg.solve(
        information + difference.T @ difference + 1e-9 * np.eye(n_slopes + 1),
        gradient + difference.T @ (difference @ parameters),
    )
    return step * min(1.0, 2.0 / max(float(np.abs(step[1:]).max()), 1e-300))


def _mapped(parameters: np.ndarray, parts_KN: Sequence[np.ndarray]) -> np.ndarray:
    """Return calibrated logits, `(N,)`."""
    mapped_N = np.full_like(parts_KN[0], parameters[0])
    for slope, part_N in zip(np.exp(parameters[1:]), parts_KN, strict=True):
        mapped_N += slope * part_N
    return mapped_N
