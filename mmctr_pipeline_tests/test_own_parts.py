"""Encoders and fusions of the user's own: the documented examples, and changes of their code."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmctr_pipeline import NewItem, Scorer, code_version, pipeline
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.items import read_items
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs.config import config_class, preset_of_run, run_config
from mmctr_pipeline.encoders.config import ImageEncoderConfig, TextEncoderConfig
from mmctr_pipeline.encoders.store.vector_store import VectorStore
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.errors import FusionError
from mmctr_pipeline.fusion.fuse import fuse
from mmctr_pipeline.fusion.own import OwnTransform
from mmctr_pipeline.plugins import VARIABLE
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError
from mmctr_pipeline.serving.errors import ScorerError
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.defs.running import REPOSITORY, Deployment

CPU = torch.device("cpu")
EXAMPLES = REPOSITORY / "examples"
PARTS = ("character_ngrams.py", "colour_grid.py", "random_projection.py", "last_item.py")
RUN_PRESET = f"""
extends: {EXAMPLES / "own_parts.yaml"}
training: {{max_epochs: 2, patience: 2, batch_size: 256}}
checks: {{beat_baselines: false, max_unreadable_images: 0.05}}
"""


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv(VARIABLE, "examples")


@pytest.mark.parametrize("name", PARTS)
def test_an_example_has_less_than_30_lines_of_code(name: str) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len([line for line in lines if line.strip()]) < 30


@pytest.mark.slow
def test_a_run_with_own_encoders_fusion_and_model_scores_new_items(
    small_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: None
) -> None:
    deployment = Deployment(small_sample, tmp_path)
    (tmp_path / "preset.yaml").write_text(RUN_PRESET)
    environment = deployment.environment()
    mmctr = [str(Path(sys.executable).with_name("mmctr"))]
    checked = subprocess.run(
        [*mmctr, "check"], env=environment, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "examples.colour_grid.ColourGrid" in checked.stdout
    run = deployment.run_pipeline()
    assert run.returncode == 0, run.stdout[-6000:]

    fused = VectorTable.read(deployment.storage / "fused_pca.parquet")
    assert fused.identity.startswith("examples.random_projection.RandomProjection-64:")
    assert fused.provenance["explained_variance"] > 0.5
    model = ModelFile.load(deployment.storage / "best_model.pt")
    kinds = {name: identity.split(":")[:2] for name, identity in model.encoder_identities.items()}
    assert kinds == {
        "text": ["own", "examples.character_ngrams.CharacterNgrams"],
        "image": ["own", "examples.colour_grid.ColourGrid"],
    }

    scorer = Scorer.load(deployment.storage, "cpu")
    images = find_data(small_sample).images
    assert images is not None
    items = read_items(find_data(small_sample))
    row = int(np.flatnonzero(images.match(items.ids))[0])
    known = items.ids[row].item()
    new = NewItem(
        items.title[row].as_py(),
        images.path(known),
        items.tags[row].tolist(),
        int(items.likes_level[row]),
        int(items.views_level[row]),
    )
    encoded = scorer._encoder.encode([new])  # type: ignore[union-attr]
    place = fused.item_id.tolist().index(known)
    np.testing.assert_allclose(encoded.fused.vectors[0], fused.vectors[place], atol=1e-6)
    first, second = scorer.score([new, NewItem("another title")], [known])
    assert first != second

    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises((ModelFileError, SettingsError), match=f"Fix.* export {VARIABLE}=examples"):
        Scorer.load(deployment.storage, "cpu").score([new])


def test_own_settings_are_checked_and_reach_the_launchpad(allowed: None) -> None:
    preset = load_preset(str(EXAMPLES / "own_parts.yaml"))
    text = preset.encoders.text
    assert (text.source, text.to_mapping()["longest"], text.template) == (
        "examples.character_ngrams.CharacterNgrams",
        3,
        "{title}",
    )
    assert preset.fusion.to_mapping()["seed"] == 7
    assert preset.fusion.method == "examples.random_projection.RandomProjection"
    assert preset_of_run_of(preset) == preset
    fields = config_class(text, "encoders.text").model_fields
    assert fields["n_features"].description == "columns of the vectors"
    with pytest.raises(SettingsError, match=r"n_features is 1; it must be >= 2"):
        TextEncoderConfig.from_mapping({"source": text.source, "n_features": 1})
