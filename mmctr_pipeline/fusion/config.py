"""Settings of the fusion of text and image vectors."""

import dataclasses

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class FusionConfig(Settings):
    """How text and image vectors become one fused vector per item."""

    method: str = setting("pca", "pca: principal components of the concatenation", choices=("pca",))
    dim: int = setting(128, "dimensions of the fused vector; less where the data allow less", ge=1)
    input: str = setting(
        "raw",
        "raw concatenates the vectors as they are (recipe A); unit scales each to length 1 first",
        choices=("raw", "unit"),
    )
