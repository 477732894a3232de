"""A strictly monotone map of logits, fitted on labelled rows, that calibrates a model."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mmctr_pipeline.files.errors import DamagedFileError

_SEGMENTS = 16
_SHORTEST = 1e-3
"""Least length of a segment, in logits."""
_PRIOR_WEIGHTS = (1.0, 10.0, 100.0, 1000.0)
_STEPS = 100
_DECIMALS = 6
"""Fitted values are rounded to this many decimals, as further digits depend on the machine."""


class CalibrationError(ValueError):
    """A calibration map cannot be fitted, or would change the order of rows."""


@dataclasses.dataclass(frozen=True)
class CalibrationMap:
    """A continuous piecewise linear map of logits with positive slopes.

    `slopes` has one slope per segment. Neighbouring segments meet at the `knots`, which are
    ascending logits. The line of the first segment has the value `intercept` at logit 0. `n_rows`
    is the number of rows that the map was fitted on. With one segment it is Platt scaling (Platt,
    "Probabilistic outputs for support vector machines", 1999).
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
                f"a calibration map needs finite numbers and one more slope than knots; this one "
                f"has {len(self.slopes)} slopes and {len(self.knots)} knots"
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
    """Return the map that `CalibrationMap.to_mapping` wrote as `mapping`, or None if that is None.

    Raises `DamagedFileError` if `mapping` is anything else.
    """
    if mapping is None:
        return None
    try:
        return CalibrationMap(
            knots=tuple(float(knot) for knot in mapping["knots"]),
            slopes=tuple(float(slope) for slope in mapping["slopes"]),
            intercept=float(mapping["intercept"]),
            n_rows=int(mapping["n_rows"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedFileError(f"the model's calibration is damaged: {error!r}") from error


def fit_calibration(logits: np.ndarray, label: np.ndarray) -> CalibrationMap:
    """Return the most likely map of N rows, given a prior that neighbouring slopes are similar.

    The map has 16 segments with equally many rows in each, or fewer segments if many rows have
    nearly the same logit. The weight of the prior is the one with the largest evidence (MacKay,
    "Bayesian interpolation", Neural Computation 4, 1992), in the Laplace approximation. So the map
    is nearly a straight line if there are few rows, or if a straight line fits them. Raises
    `CalibrationError` if all rows are of one class, or if a logit is not finite.

    Parameters
    ----------
    logits
        Logits of the rows, `(N,)`.
    label
        Labels of the rows, `(N,)`, 0 or 1.
    """
    logits_N, label_N = np.asarray(logits, np.float64), np.asarray(label, np.float64)
    if not np.isfinite(logits_N).all():
        raise CalibrationError(f"{int((~np.isfinite(logits_N)).sum())} logits are not finite")
    n_rows, n_clicks = len(label_N), int((label_N == 1).sum())
    if n_clicks in (0, n_rows):
        raise CalibrationError(f"{n_clicks} of {n_rows} rows have a click: both classes are needed")
    knots: list[float] = []
    lowest = float(logits_N.min())
    for knot in np.quantile(logits_N, np.arange(1, _SEGMENTS) / _SEGMENTS).tolist():
        if knot - (knots[-1] if knots else lowest) >= _SHORTEST:
            knots.append(knot)
    parts_KN = np.stack(
        [
            np.clip(logits_N, low, high) - (0 if low == -math.inf else low)
            for low, high in _bounds(knots)
        ]
    )
    fits = [_Fit(parts_KN, label_N, weight).best() for weight in _PRIOR_WEIGHTS]
    _, parameters = max(fits, key=lambda fit: fit[0])
    slopes = np.round(np.exp(parameters[1:]), _DECIMALS).clip(10.0**-_DECIMALS)
    intercept = round(float(parameters[0]), _DECIMALS)
    return CalibrationMap(tuple(knots), tuple(slopes.tolist()), intercept, n_rows)


def _bounds(knots: Sequence[float]) -> list[tuple[float, float]]:
    """Return where each segment begins and ends."""
    return list(zip((-math.inf, *knots), (*knots, math.inf), strict=True))


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Maximises likelihood times prior, for one weight of the prior.

    The parameters, `(1 + K,)`, are the intercept and the logarithms of the K slopes; logarithms
    keep the slopes positive. A priori the logarithm of the first slope is standard normal. The
    logarithm of each further slope minus that of the slope before it is normal with mean 0 and
    variance `1 / weight`. `parts_KN` splits each logit into its parts by segment.
    """

    parts_KN: np.ndarray
    label_N: np.ndarray
    weight: float

    def best(self) -> tuple[float, np.ndarray]:
        """Return log evidence and best parameters, by Fisher scoring with step halving."""
        parameters = np.zeros(1 + len(self.parts_KN))
        lowest = self._nats(parameters)
        for _ in range(_STEPS):
            gradient, information = self._derivatives(parameters)
            step = np.linalg.solve(information, gradient)
            # In one step, no slope changes by more than a factor of e**2.
            step *= min(1.0, 2.0 / max(float(np.abs(step[1:]).max()), 1e-300))
            while (found := self._nats(parameters - step)) > lowest:
                step = step / 2
                if np.abs(step).max() < 1e-12:
                    break
            if lowest - found < 1e-9:
                break
            parameters, lowest = parameters - step, found
        _, information = self._derivatives(parameters)
        volume = np.linalg.slogdet(information)[1] - (len(self.parts_KN) - 1) * math.log(
            self.weight
        )
        return -lowest - float(volume) / 2, parameters

    def _mapped(self, parameters: np.ndarray) -> np.ndarray:
        """Return calibrated logits, `(N,)`."""
        mapped_N: np.ndarray = parameters[0] + np.exp(parameters[1:]) @ self.parts_KN
        return mapped_N

    def _nats(self, parameters: np.ndarray) -> float:
        """Return the negative logarithm of likelihood times prior."""
        mapped_N = self._mapped(parameters)
        penalty = parameters[1] ** 2 + self.weight * (np.diff(parameters[1:]) ** 2).sum()
        return float((np.logaddexp(0, mapped_N) - self.label_N * mapped_N).sum() + penalty / 2)

    def _derivatives(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradient of `_nats` and the Fisher information."""
        size = len(parameters)
        difference = np.diff(np.eye(size), axis=0)[1:]  # between neighbouring slopes
        prior = self.weight * difference.T @ difference + 1e-9 * np.eye(size)
        prior[1, 1] += 1
        probability_N = np.exp(-np.logaddexp(0, -self._mapped(parameters)))
        ways_KN = np.exp(parameters[1:, None]) * self.parts_KN
        columns_CN = np.concatenate([np.ones((1, len(self.label_N))), ways_KN])
        gradient = columns_CN @ (probability_N - self.label_N) + prior @ parameters
        information = (columns_CN * (probability_N * (1 - probability_N))) @ columns_CN.T
        return gradient, information + prior
