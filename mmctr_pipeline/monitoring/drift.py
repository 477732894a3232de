"""Compare the profile of a night with that of the last accepted night.

A difference counts only if it is more than chance explains: between two random samples of users
from one population, a measure differs by as much with a probability of at most about `CHANCE`. Rows
of one user are not independent, so profiles record how many independent observations they hold.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.special import chdtri, ndtri

from mmctr_pipeline.monitoring.config import MonitoringConfig
from mmctr_pipeline.monitoring.profile import DataProfile, Distribution, Figure, ScoreProfile

CHANCE = 1e-4
"""Probability that chance alone makes one measure differ by more than its `Finding.chance`."""

Severity = Literal["ok", "warn", "block"]
Source = Literal["item_feature", "item_images", "interactions"]

_REFERENCE = "of the last accepted night"
_SOURCES: dict[str, Source] = {
    "item_feature": "item_feature",
    "item_info": "item_feature",
    "item_images": "item_images",
}
_SHARE_MEASURES = {"label_rate": "label_rate", "coverage": "images", "rates_auc": "rates"}
_MOST_BINS = 10
_Z = float(ndtri(1 - CHANCE / 2))


@dataclasses.dataclass(frozen=True)
class Finding:
    """The verdict of one measure.

    Parameters
    ----------
    measure
        What was measured: `schema`, or the name that its levels have in `MonitoringConfig`.
    column
        Table and column: `valid.label_rate`.
    value
        The difference from the last accepted night.
    chance
        The largest difference that chance explains.
    warn, block
        The levels; None if there is none.
    severity
        `warn` or `block` if `value` is above that level and above `chance`.
    figures
        What was found, this night first.
    """

    measure: str
    column: str
    value: float
    chance: float
    warn: float | None
    block: float | None
    severity: Severity
    figures: str

    @property
    def limit(self) -> float | None:
        """The level that the value is above; if there is none, the lowest level."""
        if self.severity == "block" or self.warn is None:
            return self.block
        return self.warn

    @property
    def sentence(self) -> str:
        """The figures and the limit: `train.label_rate: 0.31 against 0.48 ... (limit 0.25)`."""
        limit = "" if self.limit is None or self.measure == "schema" else f" (limit {self.limit:g})"
        return f"{self.column}: {self.figures}{limit}"


def source_of(column: str) -> Source:
    """Return the source asset that a column of a profile or finding comes from."""
    return _SOURCES.get(column.partition(".")[0], "interactions")


def compare(profile: DataProfile, accepted: DataProfile, limits: MonitoringConfig) -> list[Finding]:
    """Compare the data of a night with those of the last accepted night.

    Returns one finding for each measure, most of them `ok`. What only one of the profiles has is
    not compared, except columns of tables.
    """
    findings = list(_schema_changes(profile, accepted, limits))
    for column, before in accepted.counts.items():
        if column in profile.counts:
            findings.append(_drop(column, profile.counts[column], before, limits))
    for column, before in accepted.shares.items():
        if column in profile.shares:
            findings.append(_share_change(column, profile.shares[column], before, limits))
    for column, bins in accepted.distributions.items():
        if column in profile.distributions:
            findings += _distances(column, profile.distributions[column], bins, limits)
    return findings


def compare_scores(
    scores: ScoreProfile, accepted: ScoreProfile, limits: MonitoringConfig
) -> list[Finding]:
    """Compare the scores of a submission with those of the last accepted night."""
    return _distances("submission.scores", scores.histogram, accepted.histogram, limits, "score_")


def population_stability_index(
    now: Distribution, before: Distribution, chance: float = CHANCE
) -> tuple[float, float]:
    """Return the PSI of two distributions, and the value that it exceeds only by chance.

    `chance` is the probability that equal distributions exceed that value.

    The bins are merged to at most ten, each with at least a tenth of the rows of both nights, on
    average. Half an independent observation is added to each bin, so that an empty one gives a
    finite value. For equal distributions, the PSI divided by `1 / n + 1 / m` has approximately a
    chi-squared distribution with one degree of freedom less than bins (Yurdakul and Naranjo, 2020).
    """
    now_B, before_B = _merged(now, before)
    now_B, before_B = _smoothed(now_B, now.size), _smoothed(before_B, before.size)
    value = float(((now_B - before_B) * np.log(now_B / before_B)).sum())
    quantile = float(chdtri(len(now_B) - 1, chance)) if len(now_B) > 1 else 0.0
    return value, quantile * (1 / now.size + 1 / before.size)


def jensen_shannon_distance(
    now: Distribution, before: Distribution, chance: float = CHANCE
) -> tuple[float, float]:
    """Return the Jensen-Shannon distance (base 2), and the value that it exceeds only by chance.

    `chance` and the bins are those of the PSI. For similar distributions the squared distance is
    the PSI divided by `8 ln 2`.
    """
    # Rounding can make it the root of a tiny negative number.
    value = float(np.nan_to_num(jensenshannon(*_merged(now, before), base=2)))
    _, psi = population_stability_index(now, before, chance)
    return value, math.sqrt(psi / (8 * math.log(2)))


def _merged(now: Distribution, before: Distribution) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts of both in the same bins, each with enough rows."""
    n_bins = max(len(now.counts), len(before.counts))
    now_N, before_N = (
        np.pad(np.array(each.counts, np.float64), (0, n_bins - len(each.counts)))
        for each in (now, before)
    )
    share_N = (now_N / now_N.sum() + before_N / before_N.sum()) / 2
    starts, total = [0], 0.0
    for bin_number, share in enumerate(share_N.tolist()):
        if total >= 1 / _MOST_BINS:
            starts.append(bin_number)
            total = 0.0
        total += share
    if total < 1 / _MOST_BINS and len(starts) > 1:
        starts.pop()
    return np.add.reduceat(now_N, starts), np.add.reduceat(before_N, starts)


def _smoothed(count_B: np.ndarray, size: float) -> np.ndarray:
    """Return the share of each bin, after adding half an independent observation to each."""
    observed_B = count_B * (size / count_B.sum()) + 0.5
    return observed_B / observed_B.sum()


def _distances(
    column: str,
    now: Distribution,
    before: Distribution,
    limits: MonitoringConfig,
    prefix: Literal["", "score_"] = "",
) -> list[Finding]:
    means = f"a mean of {_short(now.mean)} against {_short(before.mean)} {_REFERENCE}"
    psi, psi_chance = population_stability_index(now, before)
    js, js_chance = jensen_shannon_distance(now, before)
    return [
        _finding(f"{prefix}psi", column, psi, psi_chance, f"PSI {_short(psi)}, {means}", limits),
        _finding(
            f"{prefix}js",
            column,
            js,
            js_chance,
            f"Jensen-Shannon distance {_short(js)}, {means}",
            limits,
        ),
    ]


def _share_change(column: str, now: Figure, before: Figure, limits: MonitoringConfig) -> Finding:
    measure = _SHARE_MEASURES.get(column.partition(".")[2], "unknown")
    total = now.size + before.size
    pooled = (now.value * now.size + before.value * before.size) / total
    error = math.sqrt(pooled * (1 - pooled) * (1 / now.size + 1 / before.size))
    value, chance = abs(now.value - before.value), _Z * error
    figures = f"{_short(now.value)} against {_short(before.value)} {_REFERENCE}"
    if measure == "label_rate":
        value, chance = value / before.value, chance / before.value
        figures += f", a relative change of {_short(value)}"
    else:
        figures += f", a difference of {_short(value)}"
    return _finding(measure, column, value, chance, figures, limits)


def _drop(column: str, now: Figure, before: Figure, limits: MonitoringConfig) -> Finding:
    value = max(1 - now.value / before.value, 0.0)
    chance = _Z * math.sqrt(1 / now.size + 1 / before.size)
    figures = f"{now.value:,} against {before.value:,} {_REFERENCE}"
    if value:
        figures += f", a drop of {_short(value)}"
    return _finding("rows", column, value, chance, figures, limits)


def _finding(
    measure: str, column: str, value: float, chance: float, figures: str, limits: MonitoringConfig
) -> Finding:
    warn, block = limits.levels(measure)
    severity: Severity = "ok"
    if value > chance:
        if block is not None and value > block:
            severity = "block"
        elif warn is not None and value > warn:
            severity = "warn"
    return Finding(measure, column, value, chance, warn, block, severity, figures)


def _schema_changes(
    profile: DataProfile, accepted: DataProfile, limits: MonitoringConfig
) -> Iterator[Finding]:
    for table in sorted({*profile.schema, *accepted.schema}):
        now, before = profile.schema.get(table, {}), accepted.schema.get(table, {})
        gone = [f"{name} ({kind}) is gone" for name, kind in before.items() if name not in now]
        retyped = {
            name: f"{name} is {now[name]} instead of {kind}"
            for name, kind in before.items()
            if now.get(name, kind) != kind
        }
        harmful = [
            text for name, text in retyped.items() if _kind(now[name]) != _kind(before[name])
        ]
        harmless = [text for text in retyped.values() if text not in harmful]
        harmless += [f"{name} ({now[name]}) is new" for name in now if name not in before]
        harmful = gone + harmful
        severity: Severity = "ok"
        if harmful or harmless:
            severity = limits.schema_change if harmful else "warn"
        figures = "; ".join(harmful + harmless) or "columns as in the last accepted night"
        n_changes = len(harmful + harmless)
        yield Finding("schema", table, n_changes, 0, 0, 0, severity, figures)


def _kind(column_type: str) -> str:
    """Return the type without the details that readers ignore, such as widths of integers."""
    kind = re.sub(r"dictionary<values=(\w+)[^>]*>", r"\1", column_type)
    kind = re.sub(r"u?int\d+", "int", kind)
    kind = re.sub(r"\b(halffloat|double)\b", "float", kind)
    kind = re.sub(r"\blarge_|_view\b", "", kind)
    return re.sub(r"<\w+: (\w+)( not null)?", r"<\1", kind)


def _short(number: float) -> str:
    return f"{number:.3g}"
