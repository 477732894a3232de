"""Settings of the fusion of text and image vectors."""

import dataclasses
from typing import Literal

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class AttentionConfig(Settings):
    """How the attention fusion is learned; the other methods ignore it."""

    seed: int = setting(42, "seed of held-out items, pairs, modality dropout and rotation", ge=0)
    max_epochs: int = setting(20, "epochs at most", ge=1)
    patience: int = setting(3, "epochs without a lower held-out loss before stopping", ge=1)
    rows_per_epoch: int = setting(
        100_000, "pairs of items, and as many single items, that an epoch draws at most", ge=1
    )
    batch_size: int = setting(512, "pairs, and as many single items, per step", ge=2)
    learning_rate: float = setting(5e-4, "AdamW's learning rate at the start; cosine to 0", gt=0)
    weight_decay: float = setting(1e-4, "AdamW's decoupled weight decay", ge=0)
    held_out_share: float = setting(
        0.1, "share of the items that decide when to stop and are not learned from", gt=0, le=0.5
    )
    window: int = setting(
        5, "items of a history make a pair where they stand at most so far apart", ge=1
    )
    popularity: float = setting(
        0.0,
        "an item that histories hold n times begins a pair in proportion to n to this power: 0 "
        "takes all items equally often, 1 as often as they are watched",
        ge=0,
        le=1,
    )
    temperature: float = setting(0.5, "divides the cosines of both contrasts", gt=0)
    modality_dropout: float = setting(
        0.2, "rate at which an item of a pair is shown without its title or its image", ge=0, lt=1
    )
    score_dim: int = setting(32, "hidden units of the attention score", ge=1)
    co_interaction_weight: float = setting(1.0, "weight of the co-interaction contrast", ge=0)
    image_title_weight: float = setting(0.1, "weight of the contrast of images and titles", ge=0)
    reconstruction_weight: float = setting(
        1.0, "weight of the share of the input's variance that cannot be restored", ge=0
    )


@dataclasses.dataclass(frozen=True)
class FusionConfig(Settings):
    """How text and image vectors become one fused vector per item."""

    method: Literal["pca", "attention"] = setting(
        "pca",
        "pca: principal components of the concatenation; attention: learned projections, weighted "
        "by attention",
    )
    dim: int = setting(128, "dimensions of the fused vector; less where the data allow less", ge=1)
    input: Literal["raw", "unit"] = setting(
        "raw",
        "of pca: raw concatenates the vectors as they are (recipe A); unit scales each to length 1 "
        "first",
    )
    refit: bool = setting(
        False, "fit anew although a transform for these settings, encoders and data is kept"
    )
    attention: AttentionConfig = dataclasses.field(default_factory=AttentionConfig)
