"""Presets: shipped ones, files that extend them, and errors."""

from pathlib import Path

import pytest

from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.presets.preset import Preset, load_preset, preset_name, shipped_presets
from mmctr_pipeline.settings import SettingsError


def _write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_basic_presets_are_shipped() -> None:
    expected = {"sample", "improved_mmctr", "improved_mmctr_given", "text_only"}
    assert expected <= set(shipped_presets())


@pytest.mark.parametrize("name", shipped_presets())
def test_every_shipped_preset_loads(name: str) -> None:
    preset = load_preset(name)
    assert isinstance(preset, Preset)
    assert preset.checks.auc_floor > 0.5


def test_improved_mmctr_is_recipe_a() -> None:
    preset = load_preset("improved_mmctr")
    assert preset.encoders.text.model == "all-MiniLM-L6-v2"
    assert preset.encoders.image.model == "RN50/openai"
    assert (preset.fusion.method, preset.fusion.dim, preset.fusion.input) == ("pca", 128, "raw")
    model, training = preset.model, preset.training
    assert (model.embedding_dim, model.level_embedding_dim, model.multimodal_dim) == (64, 32, 64)
    assert (model.attention_dim, model.hidden_dims) == (32, (512, 256, 128))
    assert (model.dropout, model.multimodal_dropout) == (0.3, 0.2)
    assert (training.max_epochs, training.patience, training.batch_size) == (30, 7, 2048)
    assert (training.learning_rate, training.weight_decay) == (2e-3, 1e-4)
    assert (training.multimodal_learning_rate, training.multimodal_weight_decay) == (5e-4, 1e-5)
    assert (training.schedule, training.restart_epochs) == ("cosine_restarts", 5)
    assert (training.restart_factor, training.min_learning_rate) == (2, 1e-6)
    assert (training.label_smoothing, training.gradient_clip_norm) == (0.05, 1.0)


def test_presets_share_the_settings_they_do_not_change() -> None:
    full, text = load_preset("improved_mmctr"), load_preset("text_only")
    assert text.encoders.image.source == "none"
    assert (text.encoders.text, text.model, text.fusion) == (
        full.encoders.text,
        full.model,
        full.fusion,
    )
    assert load_preset("improved_mmctr_given").encoders.text.source == "given"


def test_a_file_of_two_lines_changes_one_thing(tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.yaml", "extends: text_only\ntraining: {max_epochs: 2}\n")
    preset, base = load_preset(path), load_preset("text_only")
    assert preset.training.max_epochs == 2
    assert preset.training.batch_size == base.training.batch_size
    assert preset.checks == base.checks
    assert preset.encoders == base.encoders


def test_files_extend_files_in_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    _write(tmp_path / "deep" / "base.yaml", "extends: sample\nmodel: {dropout: 0.1}\n")
    path = _write(tmp_path / "deep" / "top.yaml", "extends: base.yaml\nfusion: {dim: 16}\n")
    preset = load_preset(path)
    assert (preset.model.dropout, preset.fusion.dim) == (0.1, 16)
    assert preset.encoders.image.model == "tiny-clip"


def test_circular_extension_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "extends: b.yaml\n")
    path = _write(tmp_path / "b.yaml", "extends: a.yaml\n")
    with pytest.raises(SettingsError, match=r"circle: b\.yaml -> a\.yaml -> b\.yaml"):
        load_preset(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainings: {}", "unknown setting trainings; known: encoders, fusion, model, training"),
        ("training: {epochs: 3}", "training: unknown setting epochs; known: seed, max_epochs"),
        ("training: {max_epochs: 0}", "TrainingConfig.max_epochs is 0; it must be >= 1"),
        ("training: 3", "Preset.training is 3"),
        ("model: {name: transformer}", "unknown model 'transformer'; known: din"),
        ("model: {dropout: 1.0}", "ImprovedMmctrConfig.dropout is 1.0; it must be < 1"),
        ("model: {droput: 0.1}", "unknown setting droput"),
        ("model: 3", "mine.yaml.model: expected a mapping of settings, got 3"),
        ("model:", "mine.yaml.model: expected a mapping of settings, got None"),
        ("- 1", "expected a mapping of sections"),
        ("a: [", "is not a YAML file"),
        ("extends: nothing", "unknown preset 'nothing': neither a file nor one of"),
    ],
)
def test_errors_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path / "mine.yaml", text)
    with pytest.raises(SettingsError) as error:
        load_preset(path)
    assert message in str(error.value)


def test_the_error_about_an_unknown_name_lists_the_shipped_presets() -> None:
    with pytest.raises(SettingsError) as error:
        load_preset("improved")
    assert ", ".join(shipped_presets()) in str(error.value)


def test_sample_is_the_default_only_without_data(tmp_path: Path) -> None:
    assert preset_name(Deployment.from_environment({})) == "sample"
    assert preset_name(Deployment.from_environment({"MMCTR_PRESET": "text_only"})) == "text_only"
    with pytest.raises(SettingsError) as error:
        preset_name(Deployment.from_environment({"MMCTR_DATA_DIR": str(tmp_path)}))
    assert ", ".join(shipped_presets()) in str(error.value)
