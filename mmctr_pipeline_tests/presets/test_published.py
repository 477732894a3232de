"""Presets have the published settings, except those marked as ours."""

from typing import Any

import pytest

from mmctr_pipeline.presets.preset import load_preset

ADAM = {"training.optimizer": "adam", "training.label_smoothing": 0.0}
PLATEAU = {"training.schedule": "plateau", "training.gradient_clip_norm": 10.0}
GIVEN_VECTOR = {"model.features.fused_vectors": True, "model.features.vector_projection": True}
SHARED = {**ADAM, **PLATEAU, "model.features.item_id": True, "model.features.item_tags": True}

LEADERS = {
    **SHARED,
    **GIVEN_VECTOR,
    "model.name": "target_cross_attention",
    "model.features.item_levels": True,
    "model.features.context_levels": True,
    "model.features.embedding_dim": 64,
    "model.features.level_embedding_dim": 64,
    # The width of the item's features: id, tags, two levels and the vector.
    "model.feed_forward_dim": 64 + 64 + 2 * 64 + 128,
    "model.attention_activation": "relu",
    "training.batch_size": 4096,
    "training.learning_rate": 1e-3,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "din": {
        **SHARED,
        **GIVEN_VECTOR,
        "model.name": "din",
        "model.features.item_levels": False,
        "model.features.embedding_dim": 128,
        "model.features.level_embedding_dim": 128,
        "model.features.max_history": 64,
        "model.attention_hidden_dims": (512, 256),
        "model.attention_activation": "dice",
        "model.attention_dropout": 0.1,
        "model.attention_softmax": False,
        "model.hidden_dims": (1024, 512, 256),
        "model.dropout": 0.1,
        "training.seed": 20242025,
        "training.batch_size": 8192,
        "training.learning_rate": 1e-3,
        "training.weight_decay": 0.0,
        "training.embedding_weight_decay": 1e-6,
        "training.plateau_factor": 0.1,
        "training.plateau_patience": 1,
    },
    "qin": {
        **SHARED,
        **GIVEN_VECTOR,
        "model.name": "qin",
        "model.features.embedding_dim": 128,
        "model.n_layers": 4,
        "model.n_rows": 4,
        "model.dropout": 0.1,
        "training.batch_size": 8192,
        "training.learning_rate": 2e-3,
        "training.weight_decay": 0.0,
        "training.embedding_weight_decay": 2e-4,
        "training.plateau_factor": 0.5,
    },
    "target_cross_attention": {
        **LEADERS,
        "model.features.user_id": False,
        "model.n_layers": 4,
        "model.n_heads": 4,
        "model.hidden_dims": (1024, 512, 512, 256, 128, 64),
        "training.pairwise_weight": 0.2,
        "training.weight_decay": 0.05,
        "training.embedding_weight_decay": 1e-3,
    },
    "target_cross_attention_jiyuqian": {
        **LEADERS,
        "model.features.user_id": True,
        "model.n_layers": 2,
        "model.hidden_dims": (1024, 512, 256, 64, 16),
        "training.pairwise_weight": 0.0,
        "training.weight_decay": 1e-2,
        "training.embedding_weight_decay": 1e-7,
    },
    "din_semantic_ids": {
        **SHARED,
        "model.name": "din_semantic_ids",
        "model.features.item_levels": True,
        "model.features.fused_vectors": False,
        "model.fused_codes": False,
        "model.text_codes": True,
        "model.image_codes": True,
        "model.attention_dropout": 0.4,
        "model.dropout": 0.3,
        "training.batch_size": 384,
        "training.learning_rate": 1e-5,
        "training.patience": 3,
        "training.embedding_weight_decay": 1e-7,
    },
    "transformer_dcn_momo": {
        **SHARED,
        **GIVEN_VECTOR,
        "model.name": "transformer_dcn",
        "model.features.embedding_dim": 64,
        "model.features.max_history": 100,
        "model.transformer_layers": 2,
        "model.n_heads": 1,
        "model.feed_forward_dim": 256,
        "model.transformer_dropout": 0.2,
        "model.kept_positions": 16,
        "model.cross_layers": 3,
        "model.hidden_dims": (1024, 512, 256),
        "model.dropout": 0.2,
        "model.head_hidden_dims": (64, 32),
        "training.batch_size": 128,
        "training.learning_rate": 5e-4,
        "training.weight_decay": 0.0,
        "training.embedding_weight_decay": 0.0,
        "training.patience": 5,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_settings(name: str) -> None:
    preset = load_preset(name)
    actual = {}
    for setting in PUBLISHED[name]:
        value: Any = preset
        for part in setting.split("."):
            value = getattr(value, part)
        actual[setting] = value
    assert actual == PUBLISHED[name]
