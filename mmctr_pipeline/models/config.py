"""Settings of the CTR models, one class per model."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from mmctr_pipeline.models.feature_config import (
    LAYERS,
    MAX_LAYERS,
    WIDTH,
    FeatureConfig,
    kinds_switched_on,
)
from mmctr_pipeline.plugins import is_plugin, plugin_settings
from mmctr_pipeline.settings import MAX_SEED, Settings, SettingsError, nearest, setting, shown

Activation = Literal["relu", "dice", "prelu", "sigmoid"]


@dataclasses.dataclass(frozen=True)
class ImprovedMmctrConfig(Settings):
    """Recipe A's model with the recipe's defaults.

    It reads whole histories, and no vectors besides the fused ones.
    """

    max_history: ClassVar[None] = None
    modalities: ClassVar[tuple[str, ...]] = ()

    name: Literal["improved_mmctr"] = "improved_mmctr"
    embedding_dim: int = setting(64, "dimensions of the user and item embeddings", **WIDTH)
    level_embedding_dim: int = setting(32, "dimensions of the embeddings of levels", **WIDTH)
    multimodal_dim: int = setting(64, "output of the multimodal transform", **WIDTH)
    multimodal_dropout: float = setting(0.2, "dropout of the multimodal transform", ge=0, lt=1)
    attention_dim: int = setting(32, "hidden units of the history attention", **WIDTH)
    hidden_dims: tuple[int, ...] = setting((512, 256, 128), "hidden layers of the tower", **WIDTH)
    dropout: float = setting(0.3, "dropout after each hidden layer", ge=0, lt=1)


@dataclasses.dataclass(frozen=True)
class FeatureModelSettings(Settings):
    """Base of the settings of models that read `FeatureConfig`."""

    features: FeatureConfig = dataclasses.field(default_factory=FeatureConfig)

    @property
    def max_history(self) -> int:
        """Number of newest history items that the model reads."""
        return self.features.max_history

    @property
    def vector_kinds(self) -> list[str]:
        """Kinds of vectors that the model reads."""
        return kinds_switched_on(self.features, "vectors")

    @property
    def modalities(self) -> tuple[str, ...]:
        """Vectors that the model reads besides the fused ones: of `text`, of `image`, or both."""
        return tuple(kind for kind in ("text", "image") if kind in self.vector_kinds)

    def _require_divisor(self, heads: str, width: int) -> None:
        """Raise `SettingsError` unless the setting `heads` divides `width`; width 0 is unset."""
        n_heads = getattr(self, heads)
        if width % n_heads:
            raise self.invalid(
                heads,
                f"is {n_heads}; it must divide {width}, which follows from features.projection_dim",
            )


@dataclasses.dataclass(frozen=True)
class QinConfig(FeatureModelSettings):
    """Quadratic interest network (arXiv 2504.17699), second in the challenge."""

    name: Literal["qin"] = "qin"
    n_layers: int = setting(4, "quadratic layers", **LAYERS)
    n_rows: int = setting(4, "rows of weights that each quadratic layer adds up", **LAYERS)
    dropout: float = setting(0.1, "dropout after each quadratic layer", ge=0, lt=1)
    row_dropout: float = setting(0.0, "dropout of each row of a quadratic layer", ge=0, lt=1)


@dataclasses.dataclass(frozen=True)
class TowerSettings(FeatureModelSettings):
    """Base of the settings of models that end in a tower."""

    hidden_dims: tuple[int, ...] = setting((1024, 512, 256), "hidden layers of the tower", **WIDTH)
    dropout: float = setting(0.1, "dropout after each hidden layer of the tower", ge=0, lt=1)


@dataclasses.dataclass(frozen=True)
class DinAttentionSettings(TowerSettings):
    """Base of the settings of models with DIN's attention."""

    attention_hidden_dims: tuple[int, ...] = setting((512, 256), "hidden attention layers", **WIDTH)
    attention_activation: Activation = setting("relu", "activation within the attention")
    attention_dropout: float = setting(0.1, "dropout within the attention", ge=0, lt=1)
    attention_softmax: bool = setting(False, "normalise a row's attention weights to sum to one")


@dataclasses.dataclass(frozen=True)
class DinConfig(DinAttentionSettings):
    """Deep interest network (arXiv 1706.06978).

    The defaults are those of the challenge's baseline, except `features`.
    """

    name: Literal["din"] = "din"
    attention_activation: Activation = setting("dice", "activation within the attention")


@dataclasses.dataclass(frozen=True)
class TargetCrossAttentionConfig(DinAttentionSettings):
    """DIN beside target-query cross-attention, as in the challenge's best systems."""

    name: Literal["target_cross_attention"] = "target_cross_attention"
    n_layers: int = setting(4, "layers of target-query cross-attention", **LAYERS)
    n_heads: int = setting(
        4, "heads per layer; must divide features.projection_dim, if that is set", **WIDTH
    )
    feed_forward_dim: int = setting(384, "hidden units of each layer's feed-forward part", **WIDTH)
    hidden_dims: tuple[int, ...] = setting(
        (1024, 512, 512, 256, 128, 64), "hidden layers of the tower", **WIDTH
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_divisor("n_heads", self.features.projection_dim)


@dataclasses.dataclass(frozen=True)
class DinSemanticIdsConfig(DinAttentionSettings):
    """DIN with codes of the item vectors as further ids, after QVQ of the challenge.

    QVQ's recipe is the preset of the same name, which uses codes of titles and covers only. Codes
    have a seed of their own, so that runs with different training seeds have the same codes.
    """

    name: Literal["din_semantic_ids"] = "din_semantic_ids"
    fused_codes: bool = setting(True, "codes of the item's fused vector")
    text_codes: bool = setting(False, "codes of the title's vector")
    image_codes: bool = setting(False, "codes of the cover's vector")
    n_levels: int = setting(
        4, "codes per vector; each encodes what the codes before it leave over", **LAYERS
    )
    n_codes: int = setting(256, "values of a code", ge=2, le=65_536)
    code_seed: int = setting(
        0, "seed of the codes, independent of the training seed", ge=0, le=MAX_SEED
    )
    attention_dropout: float = setting(0.4, "dropout within the attention", ge=0, lt=1)
    dropout: float = setting(0.3, "dropout after each hidden layer of the tower", ge=0, lt=1)

    @property
    def vector_kinds(self) -> list[str]:
        """Kinds of vectors that the model reads, as features or to make codes of them."""
        return super().vector_kinds + kinds_switched_on(self, "codes")


@dataclasses.dataclass(frozen=True)
class TransformerDcnConfig(TowerSettings):
    """Transformer and DCNv2 (arXiv 2505.03543); recipe B's defaults, except `features`."""

    name: Literal["transformer_dcn"] = "transformer_dcn"
    transformer_layers: int = setting(2, "layers of the transformer", **LAYERS)
    n_heads: int = setting(
        1, "attention heads; must divide twice features.projection_dim, if that is set", **WIDTH
    )
    feed_forward_dim: int = setting(
        256, "hidden units of the transformer's feed-forward layers", **WIDTH
    )
    transformer_dropout: float = setting(0.2, "dropout within the transformer", ge=0, lt=1)
    kept_positions: int = setting(
        16, "newest positions that DCNv2 reads individually", ge=1, le=10_000
    )
    cross_layers: int = setting(3, "layers of the cross network", **LAYERS)
    dropout: float = setting(0.2, "dropout after each hidden layer of the tower", ge=0, lt=1)
    head_hidden_dims: tuple[int, ...] = setting((64, 32), "hidden layers of the head", **WIDTH)

    def __post_init__(self) -> None:
        super().__post_init__()
        # The heads split the features of two items, history item and target.
        self._require_divisor("n_heads", 2 * self.features.projection_dim)


@dataclasses.dataclass(frozen=True)
class SimilarityAttentionConfig(TowerSettings):
    """Our model: target attention with similarities of target and history as explicit inputs.

    The defaults turn on every switch below and leave the features at their own defaults; the preset
    of the same name has the settings that were measured.
    """

    name: Literal["similarity_attention"] = "similarity_attention"
    fused_similarity: bool = setting(True, "cosine of target and history by fused vectors")
    text_similarity: bool = setting(True, "cosine of target and history by title vectors")
    image_similarity: bool = setting(True, "cosine of target and history by cover vectors")
    content_similarity: bool = setting(True, "cosine of vectors learned from titles and covers")
    id_similarity: bool = setting(
        True, "cosine of vectors learned from titles and covers plus an embedding of the item's id"
    )
    learned_dim: int = setting(64, "dimensions of the learned vectors", **WIDTH)
    co_interactions: bool = setting(True, "share of users in common, counted on train rows")
    similarity_in_attention: bool = setting(True, "feed the similarities to the attention")
    similarity_in_tower: bool = setting(True, "feed summaries of each similarity to the tower")
    similarity_in_logit: bool = setting(True, "add weighted learned similarities to the logit")
    attention: bool = setting(True, "attention of the target over the history, as in DIN")
    attention_hidden_dims: tuple[int, ...] = setting((64, 32), "hidden attention layers", **WIDTH)
    cross_attention_layers: int = setting(
        1, "layers of target-query attention; 0: none", ge=0, le=MAX_LAYERS
    )
    cross_attention_heads: int = setting(
        4,
        "heads of target-query attention; must divide features.projection_dim, if that is set",
        **WIDTH,
    )
    cross_attention_feed_forward_dim: int = setting(
        256, "hidden units of each target-query layer's feed-forward part", **WIDTH
    )
    quadratic_layers: int = setting(
        1, "quadratic layers before the tower; 0: none", ge=0, le=MAX_LAYERS
    )
    hidden_dims: tuple[int, ...] = setting((256, 128, 64), "hidden layers of the tower", **WIDTH)
    dropout: float = setting(0.1, "dropout in attention, quadratic layers and tower", ge=0, lt=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross_attention_layers:
            self._require_divisor("cross_attention_heads", self.features.projection_dim)

    @property
    def vector_kinds(self) -> list[str]:
        """Kinds of vectors that the model reads, as features or for similarities."""
        learned = ["text", "image"] if self.content_similarity or self.id_similarity else []
        return super().vector_kinds + kinds_switched_on(self, "similarity") + learned


@dataclasses.dataclass(frozen=True)
class OwnModelSettings(Settings):
    """Settings of a model of the user's own, together with those of its `Config`."""

    max_history: ClassVar[int | None]
    modalities: ClassVar[tuple[str, ...]]

    name: str = ""


ModelConfig = (
    ImprovedMmctrConfig
    | DinConfig
    | QinConfig
    | TargetCrossAttentionConfig
    | DinSemanticIdsConfig
    | TransformerDcnConfig
    | SimilarityAttentionConfig
    | OwnModelSettings
)
"""Settings of any model; `name` tells them apart."""

MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    config.name: config for config in typing.get_args(ModelConfig) if config.name
}
"""Settings class by name of the models of this package."""


def model_config_from(values: Mapping[str, Any], where: str, section: str = "") -> ModelConfig:
    """Return the settings of the model that `values` name, as `Settings.from_mapping` does.

    Raises `SettingsError` for an unknown model, too, and the errors of `plugin_class`.
    """
    if not isinstance(values, Mapping):
        fault = f"{section or 'it'} is {shown(values)}; expected a mapping of settings"
        raise SettingsError(where, [fault])
    name = values.get("name")
    if isinstance(name, str) and is_plugin(name):
        owner = ": ".join(filter(None, (where, section)))
        own = plugin_settings(name, owner, OwnModelSettings, "name", ("forward",))
        return own.from_mapping(values, where, section)
    if not isinstance(name, str) or name not in MODEL_CONFIGS:
        known = ", ".join(sorted(MODEL_CONFIGS))
        hint = nearest(name, MODEL_CONFIGS) if isinstance(name, str) else ""
        prefix = f"{section}: " if section else ""
        raise SettingsError(where, [f"{prefix}unknown model {shown(name)}{hint}; known: {known}"])
    return MODEL_CONFIGS[name].from_mapping(values, where, section)
