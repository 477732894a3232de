"""Models are built by name."""

from types import SimpleNamespace
from typing import Any

import pytest

from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import MODEL_CONFIGS
from mmctr_pipeline.settings import SettingsError


@pytest.mark.parametrize("name", sorted(MODEL_CONFIGS))
def test_every_configured_model_can_be_built(name: str) -> None:
    model = build_model(MODEL_CONFIGS[name](), FeatureSpec(n_users=5, n_items=5, vector_dim=4))
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


def test_an_unknown_name_is_refused_and_the_known_names_are_listed() -> None:
    config: Any = SimpleNamespace(name="no_such_model")
    with pytest.raises(SettingsError, match=r"unknown model 'no_such_model'; known: din, "):
        build_model(config, FeatureSpec())
