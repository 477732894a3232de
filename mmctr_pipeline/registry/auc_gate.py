"""The AUC gate: decides from the records of a model file whether the model may be submitted.

By default a model has to beat the best trivial baseline on the same valid rows. An absolute floor
may be set in addition. Both requirements are settings of the check and of the submission, not of
the model file, so changing them needs no new training.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from mmctr_pipeline.baselines import NAMES, BaselineDifference
from mmctr_pipeline.data.known import MICROLENS_1M_X1

if TYPE_CHECKING:  # loads torch, which the checks of other assets do not need
    from mmctr_pipeline.registry.model_file import ModelFile

PUBLISHED_FLOORS = {MICROLENS_1M_X1: 0.85}
"""Default floors of known data sets; recipe A (`improved_mmctr`) reported an AUC of 0.9251."""

_REQUIRED_METRICS = ("valid_auc", "valid_auc_low", "valid_auc_high")
_FIX = (
    "Fix: train a better model, or change checks.beat_baselines or checks.auc_floor in the preset, "
    "which needs no new training"
)


@dataclasses.dataclass(frozen=True)
class AucVerdict:
    """The verdict of the gate on a model: passed or not, the reason, and the numbers behind it.

    If it did not pass, `figures` has the deciding figure and its limit, as in "0.7335 < 0.75".
    """

    passed: bool
    explanation: str
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    figures: str = ""


def judge_auc(
    model_file: "ModelFile", auc_floor: float | None = None, beat_baselines: bool = True
) -> AucVerdict:
    """Judge the validation AUC that a model file records.

    Parameters
    ----------
    model_file
        The model, with its baselines (`pipeline.with_baselines` adds them to old files).
    auc_floor
        Lowest AUC that passes. None means no floor, except on the data sets of `PUBLISHED_FLOORS`.
    beat_baselines
        Whether the model has to be better than the best trivial baseline on the same rows: the
        one-sided 95 % lower bound of the difference (DeLong's paired test) must be above zero.
    """
    metrics = model_file.metrics
    unusable = [
        name for name in _REQUIRED_METRICS if not math.isfinite(metrics.get(name, math.nan))
    ]
    if unusable:
        return AucVerdict(
            False,
            f"the model file records no usable {', '.join(unusable)}; models of unknown quality "
            "are not submitted: materialise trained_model again",
        )
    findings = [_against_baselines(model_file)] if beat_baselines else []
    if auc_floor is not None or model_file.data_name in PUBLISHED_FLOORS:
        findings.append(_against_floor(model_file, auc_floor))
    passed = all(finding.passed for finding in findings)
    of_run = f" (of {model_file.measured_run})" if model_file.measured_run else ""
    found = "; it ".join(each.explanation for each in findings) or "has no floor to reach"
    sentences = [f"valid AUC {metrics['valid_auc']:.4f}{of_run} {found}"]
    if model_file.likely_causes:
        causes = "; ".join(model_file.likely_causes)
        sentences += ["It is no better than chance", f"Likely causes: {causes}"]
    if not passed:
        sentences.append(_FIX)
    numbers = {name.replace("_", " "): metrics[name] for name in _REQUIRED_METRICS}
    numbers |= {name: value for each in findings for name, value in each.numbers.items()}
    figures = "; ".join(each.figures for each in findings if each.figures)
    return AucVerdict(passed, ". ".join(sentences), numbers, figures)


def recorded_baselines(model_file: "ModelFile") -> dict[str, BaselineDifference]:
    """Return the differences from the baselines, best baseline first; missing values are NaN."""
    names = [field.name for field in dataclasses.fields(BaselineDifference)]
    found = {
        key: BaselineDifference(*(values.get(name, math.nan) for name in names))
        for key, values in model_file.baselines.items()
    }
    return dict(sorted(found.items(), key=lambda pair: -pair[1].auc))


def _against_baselines(model_file: "ModelFile") -> AucVerdict:
    baselines = recorded_baselines(model_file)
    absent = [
        f"{NAMES.get(key, key)} is undefined: {why}"
        for key, why in model_file.absent_baselines.items()
    ]
    if not baselines:
        return AucVerdict(False, "; ".join(["cannot be compared with a trivial baseline", *absent]))
    numbers = (value for baseline in baselines.values() for value in vars(baseline).values())
    if not all(map(math.isfinite, numbers)):
        return AucVerdict(False, "has no usable baselines: materialise trained_model again")
    key, best = next(iter(baselines.items()))
    name, passed = NAMES.get(key, key), best.low > 0
    if passed:
        above = "above"
    else:
        above = "not above" if best.difference <= 0 else "not significantly above"
    finding = (
        f"is {above} the best trivial baseline ({name} {best.auc:.4f}): difference "
        f"{best.difference:+.4f}, one-sided 95 % lower bound {best.low:+.4f}"
    )
    shown = {
        "best baseline": name,
        "baseline AUC": best.auc,
        "difference": best.difference,
        "lower bound of the difference": best.low,
    }
    figures = "" if passed else f"lower bound of the lead over {name}: {best.low:+.4f} <= 0"
    return AucVerdict(passed, "; ".join([finding, *absent]), shown, figures)


def _against_floor(model_file: "ModelFile", auc_floor: float | None) -> AucVerdict:
    reason = "checks.auc_floor"
    if auc_floor is None:
        auc_floor = PUBLISHED_FLOORS[model_file.data_name]
        reason = f"the default for {model_file.data_name}; override it with checks.auc_floor"
    auc = model_file.metrics["valid_auc"]
    passed = auc >= auc_floor
    verb = "reaches" if passed else "is below"
    finding = f"{verb} the floor {auc_floor:.4f} ({reason})"
    figures = "" if passed else f"{auc:.4f} < {auc_floor:g}"
    return AucVerdict(passed, finding, {"floor": auc_floor}, figures)
