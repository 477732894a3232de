"""Limits that the asset checks hold the pipeline to."""

import dataclasses

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class ChecksConfig(Settings):
    """The section `checks` of a preset."""

    auc_floor: float = setting(0.5, "validation AUC below which nothing is submitted", ge=0, le=1)
    max_missing_images: float = setting(
        0.2, "largest share of items without an image file", ge=0, le=1
    )
    max_unreadable_images: float = setting(
        0.01, "largest share of items whose image file cannot be decoded", ge=0, le=1
    )
    min_explained_variance: float = setting(
        0.5, "least share of the variance that the fused vectors keep", ge=0, le=1
    )
    max_target_in_history: float = setting(
        0.05,
        "largest share of train rows, or of valid rows, whose target is in their own history",
        ge=0,
        le=1,
    )
