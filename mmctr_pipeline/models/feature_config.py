"""Settings of the features that models read, and bounds that all models share."""

import dataclasses
from typing import Literal

from mmctr_pipeline.settings import Bounds, Settings, setting

MAX_WIDTH, MAX_LAYERS = 8_192, 64
"""Far more than any model needs; larger values are mistakes that end in errors hours later."""

WIDTH: Bounds = {"ge": 1, "le": MAX_WIDTH}
LAYERS: Bounds = {"ge": 1, "le": MAX_LAYERS}
SHARE: Bounds = {"ge": 0, "lt": 1}

VECTOR_KINDS = ("fused", "text", "image")
"""Kinds of item vectors, in the order in which the models join them."""


def kinds_switched_on(settings: Settings, suffix: str) -> list[str]:
    """Return the kinds of vectors whose setting `{kind}_{suffix}` is true."""
    return [kind for kind in VECTOR_KINDS if getattr(settings, f"{kind}_{suffix}")]


@dataclasses.dataclass(frozen=True)
class FeatureConfig(Settings):
    """Features of users, items and context; target and history items have the same ones.

    Item features are joined in the order id, tags, levels, vectors. `training.auto_settings`
    replaces `auto`; a model that is built without this step treats `auto` as `never`.
    """

    user: Literal["never", "rates", "factors", "auto"] = setting(
        "never",
        "what models know of the user besides the history; rates: click rate and number of train "
        "rows; factors: biases of user and item and the product of their factors, added to the "
        "logit; auto: factors or never, as the data suggest",
    )
    factor_dim: int = setting(16, "number of factors", **WIDTH)
    user_id: bool = setting(False, "an embedding of the user")
    item_rates: Literal["never", "always", "auto"] = setting(
        "never",
        "click rate and number of train rows of the target item; auto: always or never, as the "
        "data suggest",
    )
    item_id: bool = setting(True, "an embedding of the item")
    item_tags: bool = setting(True, "the mean embedding of the item's tags")
    item_levels: bool = setting(False, "embeddings of the item's own likes level and views level")
    context_levels: bool = setting(True, "embeddings of the row's likes level and views level")
    fused_vectors: bool = setting(True, "the item's fused vector")
    text_vectors: bool = setting(False, "the title's vector")
    image_vectors: bool = setting(False, "the cover's vector")
    vector_projection: bool = setting(
        False, "multiply vectors by a learned matrix, as FuxiCTR does, instead of standardising"
    )
    embedding_dim: int = setting(64, "dimensions of embeddings of users, items and tags", **WIDTH)
    level_embedding_dim: int = setting(64, "dimensions of the embeddings of levels", **WIDTH)
    projection_dim: int = setting(
        0, "width of a linear layer over item features; 0: none", ge=0, le=MAX_WIDTH
    )
    max_history: int = setting(64, "number of newest history items that are read", ge=1, le=10_000)
    unknown_rate: float = setting(
        0.0,
        "share of known ids that are read as unknown in training, so that the embedding of unknown "
        "ids is learned; 0: unknown ids get the mean of the trained embeddings",
        **SHARE,
    )
    unknown_value_rate: float = setting(
        0.0,
        "share of tags, and of pairs of likes level and views level, that are read as unknown in "
        "training; also the share of items that training reads by their vectors alone",
        **SHARE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # A table of the same ids learns the rate over all folds. Together with the rate over the
        # other folds, that reveals the label of a train row.
        by_id = {"item_id": self.item_id, "user: factors": self.user == "factors"}
        if self.item_rates == "always" and any(by_id.values()):
            names = " and ".join(name for name, is_on in by_id.items() if is_on)
            raise self.invalid(
                "item_rates",
                f"is 'always'; together with {names} it reveals labels of train rows: turn one off",
            )
        if self.user == "rates" and self.user_id:
            raise self.invalid(
                "user",
                "is 'rates'; together with user_id it reveals labels of train rows: turn one off",
            )
