"""Settings of the conversion of public data sets."""

import dataclasses

from mmctr_pipeline.settings import MAX_SEED, Settings, setting


@dataclasses.dataclass(frozen=True)
class ConvertConfig(Settings):
    """Which users and rows become train, valid and test."""

    seed: int = setting(7, "seed of everything that is drawn", ge=0, le=MAX_SEED)
    min_history: int = setting(
        1, "rows with fewer items in their history are left out", ge=0, le=10_000
    )
    max_history: int = setting(100, "longest history; only the newest items stay", ge=1, le=10_000)
    max_users: int | None = setting(None, "number of users to draw; all if not set", ge=1)
    held_out: float = setting(
        0.1,
        "share of each user's rows that becomes valid; an equal share becomes test (at least one "
        "row each if the user has three rows)",
        ge=0,
        le=0.4,
    )


@dataclasses.dataclass(frozen=True)
class MovieLensConfig(ConvertConfig):
    """Explicit ratings: label 1 or 0."""

    threshold: float = setting(
        4.0, "ratings of at least this have label 1, lower ratings label 0", gt=0.5, le=5
    )


@dataclasses.dataclass(frozen=True)
class MicroLensConfig(ConvertConfig):
    """Implicit feedback: each interaction has label 1, drawn items have label 0."""

    negatives: int = setting(1, "items drawn for each interaction, with label 0", ge=1, le=100)
    popularity: float = setting(
        0.75,
        "an item's chance of being drawn is proportional to its number of interactions raised to "
        "this power; with 0, all items have the same chance",
        ge=0,
        le=2,
    )
