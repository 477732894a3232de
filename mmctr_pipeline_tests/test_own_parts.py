"""Encoders and fusions of the user's own: the documented examples and their settings."""

import operator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from mmctr_pipeline import NewItem, Scorer, environment
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.items import read_items
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs.config import asset_config, run_config
from mmctr_pipeline.encoders.config import ImageEncoderConfig, TextEncoderConfig
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.plugins import VARIABLE
from mmctr_pipeline.preflight.check import preflight
from mmctr_pipeline.presets.preset import Preset, load_preset
from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.defs.running import REPOSITORY, Deployment

EXAMPLES = REPOSITORY / "examples"
OWN_PARTS = str(EXAMPLES / "own_parts.yaml")
PARTS = ("character_ngrams.py", "colour_grid.py", "random_projection.py", "last_item.py")
RUN_PRESET = f"""
extends: {OWN_PARTS}
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
    run = deployment.run_pipeline()
    assert run.returncode == 0, run.stdout[-6000:]

    fused = VectorTable.read(deployment.storage / "fused_pca.parquet")
    assert fused.identity.startswith("examples.random_projection.RandomProjection-128:")
    assert "fused_pca: explained_variance" not in run.stdout  # no warning
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


def test_own_settings_have_those_of_the_shipped_class_and_bounds(allowed: None) -> None:
    text = load_preset(OWN_PARTS).encoders.text
    assert text.source == "examples.character_ngrams.CharacterNgrams"
    assert (text.to_mapping()["longest"], text.template) == (3, "{title}")
    with pytest.raises(SettingsError, match=r"n_features is 1; it must be >= 2"):
        TextEncoderConfig.from_mapping({"source": text.source, "n_features": 1})


@pytest.mark.parametrize(
    ("asset", "field", "section"),
    [
        ("text_embeddings", "encoder", "encoders.text"),
        ("image_embeddings", "encoder", "encoders.image"),
        ("fused_pca", "fusion", "fusion"),
    ],
)
def test_a_run_of_dagster_gets_the_own_settings(
    asset: str, field: str, section: str, allowed: None
) -> None:
    preset = load_preset(OWN_PARTS)
    expected = operator.attrgetter(section)(preset)
    kind = operator.attrgetter(section)(Preset())
    config_class = asset_config(asset, preset)
    seen = []

    @dg.op
    def op(config: config_class) -> None:  # type: ignore[valid-type]
        seen.append(config.settings(field, type(kind)))  # type: ignore[attr-defined]

    @dg.job
    def job() -> None:
        op()

    config = run_config(preset)["ops"][asset]
    assert job.execute_in_process(run_config={"ops": {"op": config}}).success
    assert seen == [expected]


def test_a_preset_may_go_back_to_a_shipped_encoder_and_set_seeds(
    tmp_path: Path, allowed: None
) -> None:
    path = tmp_path / "preset.yaml"
    path.write_text(
        f"extends: {OWN_PARTS}\nseed: 3\nencoders: {{text: {{source: sentence_transformers}}}}\n"
    )
    preset = load_preset(str(path))
    assert preset.encoders.text == TextEncoderConfig()
    assert preset.encoders.image.source == "examples.colour_grid.ColourGrid"
    assert preset.training.seed == 3


def test_the_preflight_finds_nothing_wrong_with_own_parts(
    small_sample: Path, tmp_path: Path, allowed: None
) -> None:
    deployment = environment.Deployment(small_sample, tmp_path, preset=None, device="cpu")
    findings = preflight(deployment, load_preset(OWN_PARTS))
    assert [finding for finding in findings if finding.severity != "ok"] == []
    lines = [str(finding) for finding in findings]
    for kind, name in (("text", "character_ngrams.CharacterNgrams"), ("image", "colour_grid.")):
        assert any(f"{kind} encoder" in line and f"examples.{name}" in line for line in lines)


@pytest.mark.parametrize(
    ("settings_class", "values"),
    [
        (TextEncoderConfig, {"source": "examples.character_ngrams.CharacterNgrams"}),
        (ImageEncoderConfig, {"source": "examples.colour_grid.ColourGrid"}),
        (FusionConfig, {"method": "examples.random_projection.RandomProjection"}),
    ],
    ids=["text", "image", "fusion"],
)
def test_own_code_runs_only_if_its_package_is_allowed(
    settings_class: Any, values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SettingsError, match="Fix, if you trust this code: export MMCTR_PLUGINS"):
        settings_class.from_mapping(values)
    monkeypatch.setenv(VARIABLE, "examples")
    settings_class.from_mapping(values)
