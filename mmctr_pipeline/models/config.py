"""Settings of the CTR models, one class per model."""

import dataclasses
from typing import Literal

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class FeatureConfig(Settings):
    """Which features of user, items and context a model sees; items are target and history alike.

    The widths of the parts follow one another in the item features: id, tags, levels, vectors.
    """

    user_id: bool = setting(False, "an embedding of the user")
    item_id: bool = setting(True, "an embedding of the item")
    item_tags: bool = setting(True, "the mean embedding of the item's tags")
    item_levels: bool = setting(False, "embeddings of the item's own likes level and views level")
    context_levels: bool = setting(
        True, "embeddings of the row's likes level and views level, beside the target"
    )
    fused_vectors: bool = setting(True, "the item's fused vector, standardised")
    text_vectors: bool = setting(False, "the title's vector, standardised")
    image_vectors: bool = setting(False, "the cover's vector, standardised")
    embedding_dim: int = setting(64, "dimensions of the embeddings of users, items and tags", ge=1)
    level_embedding_dim: int = setting(64, "dimensions of the embeddings of levels", ge=1)
    max_history: int = setting(64, "newest items of a history that are read", ge=1)
    unknown_rate: float = setting(
        0.0,
        "share of known ids that training replaces by the unknown row, which stands for items and "
        "users that no train row holds",
        ge=0,
        lt=1,
    )


@dataclasses.dataclass(frozen=True)
class ModelSettings(Settings):
    """Base of every model's settings."""

    @property
    def max_history(self) -> int | None:
        """Newest items of a history that the model reads; None for all."""
        return None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which of `text` and `image` vectors the model reads beside the fused ones."""
        return ()


@dataclasses.dataclass(frozen=True)
class FeatureModelSettings(ModelSettings):
    """Base of the settings of models that are built on `FeatureConfig`."""

    features: FeatureConfig = dataclasses.field(default_factory=FeatureConfig)

    @property
    def max_history(self) -> int | None:
        """Newest items of a history that the model reads."""
        return self.features.max_history

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which of `text` and `image` vectors the model reads beside the fused ones."""
        read = {"text": self.features.text_vectors, "image": self.features.image_vectors}
        return tuple(name for name, is_read in read.items() if is_read)


@dataclasses.dataclass(frozen=True)
class ImprovedMmctrConfig(ModelSettings):
    """Recipe A's model; the defaults are the recipe's."""

    name: Literal["improved_mmctr"] = "improved_mmctr"
    embedding_dim: int = setting(64, "dimensions of the user and item embeddings", ge=1)
    level_embedding_dim: int = setting(
        32, "dimensions of the likes-level and views-level embeddings", ge=1
    )
    multimodal_dim: int = setting(64, "output of the multimodal transform", ge=1)
    multimodal_dropout: float = setting(0.2, "dropout of the multimodal transform", ge=0, lt=1)
    attention_dim: int = setting(32, "hidden units of the history attention", ge=1)
    hidden_dims: tuple[int, ...] = setting((512, 256, 128), "hidden layers of the tower", ge=1)
    dropout: float = setting(0.3, "dropout after each hidden layer", ge=0, lt=1)


@dataclasses.dataclass(frozen=True)
class DinConfig(FeatureModelSettings):
    """Deep interest network (arXiv 1706.06978), as the challenge's baseline has it."""

    name: Literal["din"] = "din"
    attention_hidden_dims: tuple[int, ...] = setting(
        (512, 256), "hidden layers of the attention", ge=1
    )
    attention_activation: str = setting(
        "relu", "activation within the attention", choices=("relu", "dice", "prelu", "sigmoid")
    )
    attention_dropout: float = setting(0.1, "dropout within the attention", ge=0, lt=1)
    attention_softmax: bool = setting(False, "let the attention weights of a row add up to one")
    hidden_dims: tuple[int, ...] = setting(
        (1024, 512, 256, 128, 64, 32), "hidden layers of the tower", ge=1
    )
    dropout: float = setting(0.1, "dropout after each hidden layer of the tower", ge=0, lt=1)


ModelConfig = ImprovedMmctrConfig | DinConfig
"""Any model's settings; told apart by `name`."""

MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    "improved_mmctr": ImprovedMmctrConfig,
    "din": DinConfig,
}
"""Settings class by model name."""
