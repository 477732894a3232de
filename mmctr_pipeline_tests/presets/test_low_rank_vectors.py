"""Models train on fused vectors of any width: data of low rank give only few components."""

import dataclasses

import pytest
import torch

from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import (
    ModelConfig,
    SimilarityAttentionConfig,
)
from mmctr_pipeline.presets.preset import load_preset, shipped_presets
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.models.zoo import (
    FEATURES,
    SMALL_MODELS,
    SPEC,
    random_batch,
    random_items,
    random_train_rows,
)


def assert_trains_with(config: ModelConfig, vector_dim: int) -> None:
    torch.manual_seed(0)
    items = random_items()
    items = dataclasses.replace(
        items, vectors_ID=torch.randn(len(items.present_I), vector_dim) * items.present_I[:, None]
    )
    model = build_model(config, dataclasses.replace(SPEC, vector_dim=vector_dim))
    model.fit_statistics(items, *random_train_rows())
    logits_B = model(random_batch(8, items))
    assert logits_B.shape == (8,)
    assert logits_B.isfinite().all()
    logits_B.sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


PRESET_MODELS = {load_preset(name).model: name for name in shipped_presets()}
"""The models of all presets, each with the name of one preset that has it."""


@pytest.mark.slow
@pytest.mark.parametrize("model", PRESET_MODELS, ids=list(PRESET_MODELS.values()))
def test_every_preset_trains_on_fused_vectors_of_127_dimensions(model: ModelConfig) -> None:
    assert_trains_with(model, vector_dim=127)


WITH_HEADS: dict[str, ModelConfig] = {
    "target_cross_attention": SMALL_MODELS["target_cross_attention"],
    "transformer_dcn": dataclasses.replace(SMALL_MODELS["transformer_dcn"], n_heads=4),
    "similarity_attention": SimilarityAttentionConfig(features=FEATURES, hidden_dims=(16, 8)),
}


@pytest.mark.parametrize("vector_dim", range(1, 5))
@pytest.mark.parametrize("name", WITH_HEADS)
def test_models_with_heads_train_on_vectors_of_any_width(name: str, vector_dim: int) -> None:
    assert_trains_with(WITH_HEADS[name], vector_dim)


def test_heads_that_do_not_divide_the_projection_are_refused() -> None:
    features = dataclasses.replace(FEATURES, projection_dim=10)
    with pytest.raises(SettingsError, match=r"n_heads is 4; it must divide 10, .*projection_dim"):
        dataclasses.replace(WITH_HEADS["target_cross_attention"], features=features)


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_every_model_trains_on_vectors_of_one_dimension(name: str) -> None:
    assert_trains_with(SMALL_MODELS[name], vector_dim=1)
