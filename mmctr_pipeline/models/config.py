"""Settings of the CTR models, one class per model."""

import dataclasses
from typing import Literal

from mmctr_pipeline.settings import Settings, setting

Activation = Literal["relu", "dice", "prelu", "sigmoid"]


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
    fused_vectors: bool = setting(True, "the item's fused vector")
    text_vectors: bool = setting(False, "the title's vector")
    image_vectors: bool = setting(False, "the cover's vector")
    vector_projection: bool = setting(
        False,
        "pass each vector as it is through a learned square matrix, as FuxiCTR does; false "
        "standardises it by dimension",
    )
    embedding_dim: int = setting(64, "dimensions of the embeddings of users, items and tags", ge=1)
    level_embedding_dim: int = setting(64, "dimensions of the embeddings of levels", ge=1)
    projection_dim: int = setting(
        0, "width that a linear layer takes the joined item features to; 0: none", ge=0
    )
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
class DinAttentionSettings(FeatureModelSettings):
    """Base of the settings of models that have DIN's attention."""

    attention_hidden_dims: tuple[int, ...] = setting(
        (512, 256), "hidden layers of the attention", ge=1
    )
    attention_activation: Activation = setting("relu", "activation within the attention")
    attention_dropout: float = setting(0.1, "dropout within the attention", ge=0, lt=1)
    attention_softmax: bool = setting(False, "let the attention weights of a row add up to one")


@dataclasses.dataclass(frozen=True)
class DinConfig(DinAttentionSettings):
    """Deep interest network (arXiv 1706.06978).

    The defaults are the challenge's baseline's but for `features`.
    """

    name: Literal["din"] = "din"
    attention_activation: Activation = setting("dice", "activation within the attention")
    hidden_dims: tuple[int, ...] = setting((1024, 512, 256), "hidden layers of the tower", ge=1)
    dropout: float = setting(0.1, "dropout after each hidden layer of the tower", ge=0, lt=1)


@dataclasses.dataclass(frozen=True)
class QinConfig(FeatureModelSettings):
    """Quadratic interest network (arXiv 2504.17699), second of the challenge."""

    name: Literal["qin"] = "qin"
    n_layers: int = setting(4, "quadratic layers", ge=1)
    n_rows: int = setting(4, "rows of weights that each quadratic layer adds up", ge=1)
    dropout: float = setting(0.1, "dropout after each quadratic layer", ge=0, lt=1)
    row_dropout: float = setting(
        0.0,
        "dropout of each row within a quadratic layer, whose rows then are multiplied one by one",
        ge=0,
        lt=1,
    )


@dataclasses.dataclass(frozen=True)
class TargetCrossAttentionConfig(DinAttentionSettings):
    """DIN beside target-query cross-attention, as the challenge's best systems have it."""

    name: Literal["target_cross_attention"] = "target_cross_attention"
    n_layers: int = setting(4, "layers of target-query cross-attention", ge=1)
    n_heads: int = setting(4, "heads of each; they must divide the item features", ge=1)
    feed_forward_dim: int = setting(384, "hidden units of the feed-forward of each", ge=1)
    hidden_dims: tuple[int, ...] = setting(
        (1024, 512, 512, 256, 128, 64), "hidden layers of the tower", ge=1
    )
    dropout: float = setting(0.1, "dropout after each hidden layer of the tower", ge=0, lt=1)


@dataclasses.dataclass(frozen=True)
class DinSemanticIdsConfig(DinAttentionSettings):
    """DIN with codes of the item vectors as further ids, after QVQ of the challenge.

    QVQ's recipe is the preset of the same name, which takes codes of titles and covers alone.
    """

    name: Literal["din_semantic_ids"] = "din_semantic_ids"
    fused_codes: bool = setting(True, "codes of the item's fused vector")
    text_codes: bool = setting(False, "codes of the title's vector")
    image_codes: bool = setting(False, "codes of the cover's vector")
    n_levels: int = setting(4, "codes of a vector, each of what the ones before left over", ge=1)
    n_codes: int = setting(256, "values of a code", ge=2)
    code_seed: int = setting(
        0,
        "seed of the codes; apart from that of training, so that several trainings share them",
        ge=0,
    )
    attention_dropout: float = setting(0.4, "dropout within the attention", ge=0, lt=1)
    hidden_dims: tuple[int, ...] = setting((1024, 512, 256), "hidden layers of the tower", ge=1)
    dropout: float = setting(0.3, "dropout after each hidden layer of the tower", ge=0, lt=1)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which of `text` and `image` vectors the model reads beside the fused ones."""
        coded = {"text": self.text_codes, "image": self.image_codes}
        of_features = super().modalities
        return tuple(name for name in coded if coded[name] or name in of_features)


@dataclasses.dataclass(frozen=True)
class TransformerDcnConfig(FeatureModelSettings):
    """Transformer and DCNv2 (arXiv 2505.03543); the defaults are recipe B's but for `features`."""

    name: Literal["transformer_dcn"] = "transformer_dcn"
    transformer_layers: int = setting(2, "layers of the transformer", ge=1)
    n_heads: int = setting(
        1, "heads of its attention; they must divide twice the item features", ge=1
    )
    feed_forward_dim: int = setting(256, "hidden units of its feed-forward layers", ge=1)
    transformer_dropout: float = setting(0.2, "dropout within the transformer", ge=0, lt=1)
    kept_positions: int = setting(
        16, "newest positions whose encodings go to cross network and tower as they are", ge=1
    )
    cross_layers: int = setting(3, "layers of the cross network", ge=1)
    hidden_dims: tuple[int, ...] = setting((1024, 512, 256), "hidden layers of the tower", ge=1)
    dropout: float = setting(0.2, "dropout after each hidden layer of the tower", ge=0, lt=1)
    head_hidden_dims: tuple[int, ...] = setting(
        (64, 32), "hidden layers of the network that joins cross network and tower", ge=1
    )


@dataclasses.dataclass(frozen=True)
class SimilarityAttentionConfig(FeatureModelSettings):
    """Ours: target attention with the similarity of target and history as an input of its own.

    The defaults turn every switch below on and leave the features at theirs; the settings that were
    measured are those of the preset of the same name.
    """

    name: Literal["similarity_attention"] = "similarity_attention"
    fused_similarity: bool = setting(True, "cosine of target and history by fused vectors")
    text_similarity: bool = setting(True, "cosine of target and history by title vectors")
    image_similarity: bool = setting(True, "cosine of target and history by cover vectors")
    content_similarity: bool = setting(True, "cosine of vectors learned from titles and covers")
    id_similarity: bool = setting(
        True, "the same of vectors that have an embedding of the item's id added to them"
    )
    learned_dim: int = setting(64, "dimensions of the learned vectors", ge=1)
    co_interactions: bool = setting(
        True, "share of users that target and history item have in common, counted on train"
    )
    similarity_in_attention: bool = setting(
        True, "let the attention see the similarities at each position"
    )
    similarity_in_tower: bool = setting(
        True, "mean, maximum, last and recency-weighted mean of each similarity as features"
    )
    similarity_in_logit: bool = setting(
        True, "add the mean of each learned similarity to the logit, times a learned number"
    )
    attention: bool = setting(True, "attention of the target over the history, as in DIN")
    attention_hidden_dims: tuple[int, ...] = setting(
        (64, 32), "hidden layers of the attention", ge=1
    )
    cross_attention_layers: int = setting(
        1, "layers in which the target queries the history; 0: none", ge=0
    )
    cross_attention_heads: int = setting(4, "heads of these layers", ge=1)
    cross_attention_feed_forward_dim: int = setting(256, "hidden units of these layers", ge=1)
    quadratic_layers: int = setting(1, "quadratic layers before the tower; 0: none", ge=0)
    hidden_dims: tuple[int, ...] = setting((256, 128, 64), "hidden layers of the tower", ge=1)
    dropout: float = setting(0.1, "dropout in attention, quadratic layers and tower", ge=0, lt=1)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which of `text` and `image` vectors the model reads beside the fused ones."""
        is_learned = self.content_similarity or self.id_similarity
        read = {
            "text": is_learned or self.text_similarity or self.features.text_vectors,
            "image": is_learned or self.image_similarity or self.features.image_vectors,
        }
        return tuple(name for name, is_read in read.items() if is_read)


ModelConfig = (
    ImprovedMmctrConfig
    | DinConfig
    | QinConfig
    | TargetCrossAttentionConfig
    | DinSemanticIdsConfig
    | TransformerDcnConfig
    | SimilarityAttentionConfig
)
"""Any model's settings; told apart by `name`."""

MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    "improved_mmctr": ImprovedMmctrConfig,
    "din": DinConfig,
    "qin": QinConfig,
    "target_cross_attention": TargetCrossAttentionConfig,
    "din_semantic_ids": DinSemanticIdsConfig,
    "transformer_dcn": TransformerDcnConfig,
    "similarity_attention": SimilarityAttentionConfig,
}
"""Settings class by model name."""
