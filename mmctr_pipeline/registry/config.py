"""Settings of the champion: when a challenger replaces it, and how many versions are kept."""

import dataclasses

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class PromotionConfig(Settings):
    """The section `promotion` of a preset."""

    margin: float = setting(
        0.003,
        "AUC by which a challenger may be worse than the champion: the lower end of the one-sided "
        "95 % interval of the difference must be above minus this; twice this against the best "
        "model ever promoted",
        ge=0,
        le=0.5,
    )
    slice_margin: float = setting(
        0.01,
        "AUC by which a challenger may be worse on a slice of the rows, such as cold items; it is "
        "rejected if it is significantly worse by more",
        ge=0,
        le=0.5,
    )
    min_slice_rows: int = setting(
        1000, "slices with fewer valid rows than this are not compared", ge=2, le=1_000_000_000
    )
    version: str | None = setting(
        None,
        "promote this version without a comparison, for example to roll back; by default the model "
        "trained last competes with the champion",
    )
    keep_models: int = setting(
        30,
        "versions that are kept, the newest first; champion, best model and former champions are "
        "kept besides",
        ge=1,
        le=100_000,
    )
    keep_former: int = setting(
        5, "former champions that are kept for a roll-back, the newest first", ge=1, le=100_000
    )
