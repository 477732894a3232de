"""Settings of the sample dataset (seed, size, effect of taste on clicks) and paths of its files."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any, Self

from mmctr_pipeline.data.config import parse_day
from mmctr_pipeline.settings import MAX_SEED, Settings, SettingsError, setting

SAMPLE_VERSION = 2
"""Increase this when the same settings yield other data, so that old folders are not reused."""

FULL_SCALE = 90.0
"""The scale at which a dataset has the size of MicroLens_1M_x1, 3,600,000 train rows."""

# The smallest and the full size.
_SIZES = {
    "n_items": (150, 91_717),
    "n_users": (60, 1_000_000),
    "n_train_rows": (400, 3_600_000),
    "n_valid_rows": (200, 10_000),
    "n_test_rows": (100, 379_142),
}

WINDOW_DAYS = 28
"""Days of the first window of a dataset by day."""

_DAY_SETTINGS = (
    *("days", "first_day", "daily_row_share", "daily_growth", "new_item_row_share", "drift"),
)
"""Settings that only a dataset by day has."""


@dataclasses.dataclass(frozen=True)
class SampleConfig(Settings):
    """A sample dataset; the defaults are those of `make demo`."""

    seed: int = setting(7, "seed of everything that is drawn", ge=0, le=MAX_SEED)
    n_items: int = setting(1_500, "items of the catalogue; ids start at 1", ge=150, le=10_000_000)
    n_users: int = setting(
        6_000, "users of all splits together; no user is in two splits", ge=60, le=100_000_000
    )
    n_train_rows: int = setting(40_000, "rows of train.parquet", ge=4, le=1_000_000_000)
    n_valid_rows: int = setting(8_000, "rows of valid.parquet", ge=4, le=1_000_000_000)
    n_test_rows: int = setting(5_000, "rows of test.parquet", ge=4, le=1_000_000_000)
    images: bool = setting(True, "whether to draw cover images")
    rows_per_history: int = setting(4, "consecutive rows that share one history", ge=1, le=64)
    cold_item_share: float = setting(
        0.25, "share of cold items, which neither train rows nor histories show", ge=0, le=0.5
    )
    cold_row_share: float = setting(
        0.35, "share of the valid and test rows whose target is a cold item", ge=0, le=1
    )
    missing_image_share: float = setting(0.03, "share of the items without an image", ge=0, le=1)
    corrupt_image_share: float = setting(
        0.005, "share of the items whose image file cannot be decoded", ge=0, le=1
    )
    empty_title_share: float = setting(0.005, "share of the items with an empty title", ge=0, le=1)
    style_effect: float = setting(
        1.5,
        "added to the logit for a style that the user likes (1.3 times for the favourite), "
        "subtracted for other styles",
        ge=0,
        le=100,
    )
    category_effect: float = setting(
        1.5,
        "added to the logit for a category that the user likes (1.3 times for the favourite), "
        "subtracted for other categories",
        ge=0,
        le=100,
    )
    popularity_effect: float = setting(
        0.15,
        "added to the logit per standard deviation of the target's log popularity",
        ge=0,
        le=100,
    )
    intercept: float = setting(
        -0.9, "logit of a target that is neither liked nor disliked", ge=-100, le=100
    )
    days: int | None = setting(
        None,
        "write logs by day instead of splits: a first window of 28 days with n_train_rows rows, "
        "then this many days",
        ge=0,
        le=3_650,
    )
    first_day: str = setting("2026-10-01", "first day of logs by day, YYYY-MM-DD")
    daily_row_share: float = setting(
        0.03, "rows of each day after the first window, as a share of n_train_rows", gt=0, le=1
    )
    daily_growth: float = setting(
        0.01,
        "new items and users of each day, as a share of n_items and n_users, which are reached at "
        "the end of the first window",
        ge=0,
        le=0.03,
    )
    new_item_row_share: float = setting(
        0.1, "share of a day's rows whose target is an item that is new on this day", ge=0, le=1
    )
    drift: float = setting(
        0.8,
        "size of the trends of categories and styles, which move within weeks: standard deviation "
        "of what they add to the logit",
        ge=0,
        le=100,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if parse_day(self.first_day) is None:
            raise self.invalid(
                "first_day", f"is {self.first_day!r}; it must be a date such as 2026-10-01"
            )
        if self.missing_image_share + self.corrupt_image_share > 1:
            raise self.invalid(
                "missing_image_share",
                f"is {self.missing_image_share}; its sum with corrupt_image_share is above 1",
            )

    @classmethod
    def scaled(cls, scale: float, **changes: Any) -> Self:
        """Return the settings for a scale: 1 is the default, 90 the size of MicroLens_1M_x1.

        The scale is the number of train rows divided by the default of 40,000. Above 1 the other
        sizes grow geometrically from their default to their full size. Below 1 all sizes shrink
        proportionally, but not below the smallest dataset that still has items of every kind.
        `changes` sets other fields.
        """
        if not 0 < scale <= FULL_SCALE:
            raise SettingsError(f"scale is {scale!r}; it must be above 0 and at most {FULL_SCALE}")
        default = cls()
        progress = math.log(scale) / math.log(FULL_SCALE)
        sizes = {}
        for name, (smallest, full) in _SIZES.items():
            size = getattr(default, name)
            grown = size * (full / size) ** progress if scale >= 1 else size * scale
            sizes[name] = max(round(grown), smallest)
        return cls(**{**sizes, **changes})

    @classmethod
    def full_size(cls, **changes: Any) -> Self:
        """Return the settings for MicroLens's size, without images unless `images=True`."""
        return cls.scaled(FULL_SCALE, **{"images": False, **changes})

    @property
    def key(self) -> str:
        """Folder name: seed and size, and a hash of the other settings if they are changed."""
        size = f"{self.n_items}x{self.n_users}x{self.n_train_rows}"
        size += "" if self.days is None else f"-{self.days}days"
        name = f"seed{self.seed}-{size}{'' if self.images else '-noimages'}-v{SAMPLE_VERSION}"
        others, defaults = self.to_mapping(), SampleConfig().to_mapping()
        ignored = ("days",) if self.days is not None else _DAY_SETTINGS
        for field in ("seed", "n_items", "n_users", "n_train_rows", "images", *ignored):
            del others[field], defaults[field]
        if others == defaults:
            return name
        digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()
        return f"{name}-{digest[:8]}"


class SamplePaths:
    """Paths of a sample dataset's files in the folder `root`, in the layout of most MMCTR copies.

    `truth` has the probability and label of each valid and test row, by position, `item_truth` the
    category, style and caption of each item. The pipeline uses neither to train or to score.
    `summary` has settings, counts and the best possible AUC; it is written last.

    A dataset by day has the folders `logs` and `candidates` instead of `split`, and folders of part
    files for `item_feature`, `item_info` and `item_truth`; `truth_of` has the truth of a day.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.interactions = root / "MicroLens_1M_x1"
        self.item_info = self.interactions / "item_info.parquet"
        self.item_feature = root / "item_feature.parquet"
        self.item_seq = root / "item_seq.parquet"
        self.images = root / "item_images"
        self.truth = root / "sample_truth.parquet"
        self.item_truth = root / "sample_items.parquet"
        self.summary = root / "sample_dataset.json"
        self.logs = root / "interactions"
        self.candidates = root / "candidates"

    def truth_of(self, day: str) -> Path:
        """Return the path of the probabilities and labels of a day, `YYYY-MM-DD`."""
        return self.root / "sample_truth" / f"day={day}" / "truth.parquet"

    def split(self, name: str) -> Path:
        """Return the path of `train`, `valid` or `test`."""
        return self.interactions / f"{name}.parquet"
