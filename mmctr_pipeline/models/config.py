"""Settings of the CTR models, one class per model."""

import dataclasses
from typing import Literal

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class ImprovedMmctrConfig(Settings):
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


ModelConfig = ImprovedMmctrConfig
"""Any model's settings; told apart by `name`."""

MODEL_CONFIGS: dict[str, type[ModelConfig]] = {"improved_mmctr": ImprovedMmctrConfig}
"""Settings class by model name."""
