"""CTR models by name."""

from typing import Any

from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.models.din import Din
from mmctr_pipeline.models.din_semantic_ids import DinSemanticIds
from mmctr_pipeline.models.improved_mmctr import ImprovedMmctr
from mmctr_pipeline.models.qin import Qin
from mmctr_pipeline.models.similarity_attention import SimilarityAttention
from mmctr_pipeline.models.target_cross_attention import TargetCrossAttentionModel
from mmctr_pipeline.models.transformer_dcn import TransformerDcn
from mmctr_pipeline.plugins import is_plugin, plugin_class
from mmctr_pipeline.settings import SettingsError

_MODELS: dict[str, type[Any]] = {
    "improved_mmctr": ImprovedMmctr,
    "din": Din,
    "qin": Qin,
    "target_cross_attention": TargetCrossAttentionModel,
    "din_semantic_ids": DinSemanticIds,
    "transformer_dcn": TransformerDcn,
    "similarity_attention": SimilarityAttention,
}


def build_model(config: ModelConfig, spec: FeatureSpec) -> CtrModel:
    """Return a freshly initialised model on torch's current default device.

    Draws from torch's global random state. Raises `SettingsError` for an unknown name.

    Parameters
    ----------
    config
        Settings of the model; their `name` selects it.
    spec
        Sizes of its tables and widths of the item vectors.
    """
    return model_class(config)(config, spec)


def model_class(config: ModelConfig) -> type[Any]:
    """Return the class of a model, a `CtrModel`.

    Raises `SettingsError` for an unknown name, and the errors of `plugin_class`.
    """
    if is_plugin(config.name):
        return plugin_class(config.name, "model")
    if config.name not in _MODELS:
        raise SettingsError(f"unknown model {config.name!r}; known: {', '.join(sorted(_MODELS))}")
    return _MODELS[config.name]
