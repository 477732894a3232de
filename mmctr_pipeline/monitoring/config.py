"""Levels of the data checks: how much a night may differ from the last accepted night."""

import dataclasses
from typing import Any, Literal

from mmctr_pipeline.settings import Settings, setting


def _level(default: float | None, help: str, most: float = 1) -> Any:
    return setting(default, help, ge=0, le=most)


@dataclasses.dataclass(frozen=True)
class MonitoringConfig(Settings):
    """The section `monitoring` of a preset.

    A night whose data are above a blocking level stops before anything is encoded or trained. A
    level does not apply to a difference that chance explains, and null turns it off.
    """

    rows_warn: float | None = _level(
        0.25,
        "warn if rows, users or items drop by more than this share; two days of one week often "
        "differ by less",
    )
    rows_block: float | None = _level(
        0.4, "block if they drop by more than this share; a half-written table drops by 0.5"
    )
    label_rate_warn: float | None = _level(
        0.1, "warn if the share of clicks changes by more than this, relative to itself", most=100
    )
    label_rate_block: float | None = _level(
        0.25, "block if the share of clicks changes by more than this, relative to itself", most=100
    )
    rates_warn: float | None = _level(
        0.05,
        "warn if the AUC of the click rates of item and user in train, on the last valid day, "
        "changes by more than this",
    )
    rates_block: float | None = _level(
        0.1, "block if that AUC changes by more than this, as with wrong labels"
    )
    unknown_warn: float | None = _level(
        0.05,
        "warn if the share of valid or test rows with an item, or a user, that no train row has "
        "changes by more than this",
    )
    unknown_block: float | None = _level(0.2, "block if that share changes by more than this")
    images_warn: float | None = _level(
        0.02, "warn if the share of items with a cover file changes by more than this"
    )
    images_block: float | None = _level(
        0.1, "block if the share of items with a cover file changes by more than this"
    )
    psi_warn: float | None = _level(
        0.1,
        "warn if the population stability index (PSI) of levels or history lengths is above this; "
        "by convention, below 0.1 is no change, 0.1 to 0.25 a moderate one, above 0.25 a large one",
        most=100,
    )
    psi_block: float | None = _level(
        0.25, "block if the PSI of levels or history lengths is above this", most=100
    )
    js_warn: float | None = _level(
        0.15,
        "warn if the Jensen-Shannon distance of levels or history lengths (0: equal, 1: nothing in "
        "common) is above this; for small changes it is 0.42 times the root of the PSI",
    )
    js_block: float | None = _level(
        0.25, "block if the Jensen-Shannon distance of levels or history lengths is above this"
    )
    schema_change: Literal["block", "warn"] = setting(
        "block",
        "what to do if a column is gone, or has another kind of values (such as strings for "
        "integers); new columns and other widths, such as int64 for int32, only warn",
    )
    score_psi_warn: float | None = _level(
        0.25, "warn if the PSI of the submission's scores is above this", most=100
    )
    score_psi_block: float | None = _level(
        None, "fail the submission's check if the PSI of its scores is above this", most=100
    )
    score_js_warn: float | None = _level(
        0.25, "warn if the Jensen-Shannon distance of the submission's scores is above this"
    )
    score_js_block: float | None = _level(
        None, "fail the submission's check if the Jensen-Shannon distance of its scores is above it"
    )

    def levels(self, measure: str) -> tuple[float | None, float | None]:
        """Return the warning level and the blocking level of a measure, such as `psi`."""
        return getattr(self, f"{measure}_warn"), getattr(self, f"{measure}_block")


_NAMES = tuple(field.name for field in dataclasses.fields(MonitoringConfig))

SCORE_LEVELS = tuple(name for name in _NAMES if name.startswith("score_"))
"""Settings about the submission's scores."""

DATA_LEVELS = tuple(name for name in _NAMES if name not in SCORE_LEVELS)
"""Settings about the data."""
