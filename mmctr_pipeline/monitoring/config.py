"""Limits of the data checks: how much a night's data may differ from the last accepted night's."""

import dataclasses
from typing import Any, Literal

from mmctr_pipeline.settings import Settings, setting

_NULL = "; null: never"
_CHANCE = ", if that is more than chance explains"


def _limit(default: float | None, help: str, **bounds: float) -> Any:
    return setting(default, help + _NULL, **{"ge": 0, **bounds})


@dataclasses.dataclass(frozen=True)
class MonitoringConfig(Settings):
    """The section `monitoring` of a preset.

    Each measure has a warning level and a blocking level. A blocking level stops the night before
    anything is encoded or trained.
    """

    rows_warn: float | None = _limit(
        0.25,
        "warn if rows, users or items of a table drop by more than this share; the days of a week "
        "often differ by less" + _CHANCE,
        le=1,
    )
    rows_block: float | None = _limit(
        0.4,
        "block if they drop by more than this share; a table that is half written drops by 0.5"
        + _CHANCE,
        le=1,
    )
    label_rate_warn: float | None = _limit(
        0.1, "warn if the share of clicks changes by more than this share of itself" + _CHANCE
    )
    label_rate_block: float | None = _limit(
        0.25, "block if the share of clicks changes by more than this share of itself" + _CHANCE
    )
    unknown_warn: float | None = _limit(
        0.05,
        "warn if the share of valid or test rows with an item, or a user, that no train row has "
        "changes by more than this" + _CHANCE,
        le=1,
    )
    unknown_block: float | None = _limit(
        0.2, "block if that share changes by more than this" + _CHANCE, le=1
    )
    images_warn: float | None = _limit(
        0.02,
        "warn if the share of items with a cover file changes by more than this" + _CHANCE,
        le=1,
    )
    images_block: float | None = _limit(
        0.1,
        "block if the share of items with a cover file changes by more than this" + _CHANCE,
        le=1,
    )
    psi_warn: float | None = _limit(
        0.1,
        "warn if the population stability index (PSI) of levels or history lengths is above this; "
        "by convention, below 0.1 is no change, 0.1 to 0.25 a moderate one, above 0.25 a large one"
        + _CHANCE,
    )
    psi_block: float | None = _limit(0.25, "block if that PSI is above this" + _CHANCE)
    js_warn: float | None = _limit(
        0.15,
        "warn if the Jensen-Shannon distance of levels or history lengths (0: equal, 1: nothing in "
        "common) is above this; for small changes it is about 0.42 times the root of the PSI"
        + _CHANCE,
        le=1,
    )
    js_block: float | None = _limit(0.25, "block if that distance is above this" + _CHANCE, le=1)
    schema_change: Literal["block", "warn"] = setting(
        "block",
        "what to do if a column is gone, or has another kind of values (such as strings for "
        "integers); new columns and other widths, such as int64 for int32, only warn",
    )
    score_psi_warn: float | None = _limit(
        0.25, "warn if the PSI of the submission's scores is above this" + _CHANCE
    )
    score_psi_block: float | None = _limit(
        None, "fail the check of the submission if the PSI of its scores is above this" + _CHANCE
    )
    score_js_warn: float | None = _limit(
        0.25,
        "warn if the Jensen-Shannon distance of the submission's scores is above this" + _CHANCE,
        le=1,
    )
    score_js_block: float | None = _limit(
        None, "fail the check of the submission if that distance is above this" + _CHANCE, le=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in MEASURES:
            warn, block = self.levels(name)
            if warn is not None and block is not None and warn > block:
                raise self.invalid(
                    f"{name}_warn", f"is {warn}; it must be at most {name}_block ({block})"
                )

    def levels(self, measure: str) -> tuple[float | None, float | None]:
        """Return the warning level and the blocking level of one of `MEASURES`."""
        return getattr(self, f"{measure}_warn"), getattr(self, f"{measure}_block")


MEASURES = tuple(
    field.name.removesuffix("_block")
    for field in dataclasses.fields(MonitoringConfig)
    if field.name.endswith("_block")
)
"""Measures with a number as level, by the names that the settings have."""

SCORE_LIMITS = tuple(
    field.name for field in dataclasses.fields(MonitoringConfig) if field.name.startswith("score_")
)
"""Settings about the submission's scores; all others are about the data."""

DATA_LIMITS = tuple(
    field.name for field in dataclasses.fields(MonitoringConfig) if field.name not in SCORE_LIMITS
)
"""Settings about the data."""
