"""Settings of the fusion of text and image vectors."""

import dataclasses
from typing import ClassVar, Literal

from mmctr_pipeline.plugins import PluggableSettings
from mmctr_pipeline.settings import MAX_SEED, Settings, setting


@dataclasses.dataclass(frozen=True)
class AttentionConfig(Settings):
    """How the attention fusion is learned; the other methods ignore it."""

    seed: int = setting(
        42, "seed of held-out items, pairs, modality dropout and rotation", ge=0, le=MAX_SEED
    )
    max_epochs: int = setting(20, "maximum number of epochs", ge=1, le=10_000)
    patience: int = setting(
        3, "epochs without a lower held-out loss before stopping", ge=1, le=10_000
    )
    rows_per_epoch: int = setting(
        100_000, "maximum number of item pairs, and of single items, per epoch", ge=1, le=10**9
    )
    batch_size: int = setting(512, "pairs, and as many single items, per step", ge=2, le=1 << 20)
    learning_rate: float = setting(
        5e-4, "AdamW's initial learning rate, lowered to 0 along a cosine", gt=0, le=1
    )
    weight_decay: float = setting(1e-4, "AdamW's decoupled weight decay", ge=0, lt=1)
    held_out_share: float = setting(
        0.1, "share of the items held out of training to decide when to stop", gt=0, le=0.5
    )
    window: int = setting(5, "maximum distance of a pair of items in a history", ge=1, le=10_000)
    popularity: float = setting(
        0.0,
        "an item with n history entries is drawn as the first of a pair in proportion to n to this "
        "power: 0 draws all items equally often, 1 as often as they are watched",
        ge=0,
        le=1,
    )
    temperature: float = setting(0.5, "divides the cosines of both contrasts", ge=1e-3, le=1e3)
    modality_dropout: float = setting(
        0.2, "rate at which an item of a pair loses its title or its image in training", ge=0, lt=1
    )
    score_dim: int = setting(32, "hidden units of the attention score", ge=1, le=8_192)
    co_interaction_weight: float = setting(
        1.0, "weight of the co-interaction contrast", ge=0, le=1e3
    )
    image_title_weight: float = setting(
        0.1, "weight of the contrast of images and titles", ge=0, le=1e3
    )
    reconstruction_weight: float = setting(
        1.0, "weight of the share of the input's variance that is not restored", ge=0, le=1e3
    )


@dataclasses.dataclass(frozen=True)
class FusionConfig(PluggableSettings):
    """How text and image vectors become one fused vector per item."""

    SELECTOR: ClassVar = "method"
    METHODS: ClassVar = ("fit", "fuse")

    method: Literal["pca", "pca_each", "attention"] = setting(
        "pca",
        "pca: principal components of the concatenated vectors; pca_each: principal components of "
        "each modality by itself, scaled to the same total variance and concatenated; attention: "
        "learned projections, weighted by attention; in a preset also a class of your own, "
        "my_package.MyFusion",
    )
    dim: int = setting(
        128, "dimensions of the fused vector; fewer if the data allow fewer", ge=1, le=8_192
    )
    input: Literal["raw", "unit", "standardised"] = setting(
        "raw",
        "for pca and pca_each. raw: the vectors as they are (recipe A); unit: each vector scaled "
        "to length 1; standardised: each column scaled to the same variance, 1 in total for each "
        "modality",
    )
    rotate: bool = setting(
        False,
        "for pca and pca_each; attention always rotates. Turn the components at random, so that a "
        "model that standardises each dimension does not raise the least component to the level of "
        "the first",
    )
    refit: bool = setting(
        False, "fit again even if a transform for these settings, encoders and data is stored"
    )
    attention: AttentionConfig = dataclasses.field(default_factory=AttentionConfig)
