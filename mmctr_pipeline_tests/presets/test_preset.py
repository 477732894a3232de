"""Shipped presets load, files extend them, and errors name the file."""

import dataclasses
from pathlib import Path

import pytest

from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.presets.preset import Preset, load_preset, preset_name, shipped_presets
from mmctr_pipeline.settings import Settings, SettingsError


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
    # How high a good AUC is depends on the data, so no preset sets a floor.
    assert (preset.checks.auc_floor, preset.checks.beat_baselines) == (None, True)


def test_only_our_presets_differ_from_the_published_fusions() -> None:
    ours = {"sample", "similarity_attention"}
    for name in shipped_presets():
        fusion = load_preset(name).fusion
        published = "attention" if name == "transformer_dcn" else "pca"
        assert fusion.method == ("pca_each" if name in ours else published), name
        assert fusion.rotate is (name in ours), name


def test_improved_mmctr_has_the_settings_of_recipe_a() -> None:
    preset = load_preset("improved_mmctr")
    assert preset.encoders.text.model == "all-MiniLM-L6-v2"
    assert preset.encoders.image.model == "RN50/openai"
    fusion = preset.fusion
    assert (fusion.method, fusion.dim, fusion.input, fusion.rotate) == ("pca", 128, "raw", False)
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


def test_a_file_of_two_lines_changes_only_one_setting(tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.yaml", "extends: text_only\ntraining: {max_epochs: 2}\n")
    preset, base = load_preset(path), load_preset("text_only")
    assert preset.training.max_epochs == 2
    assert preset.training.batch_size == base.training.batch_size
    assert preset.checks == base.checks
    assert preset.encoders == base.encoders


def test_a_file_may_extend_another_file_in_its_own_folder(tmp_path: Path) -> None:
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
        (
            "trainings: {}",
            "unknown setting trainings (did you mean training?); known: data, encoders, fusion",
        ),
        (
            "training: {epochs: 3}",
            "training: unknown setting epochs (did you mean max_epochs?); known: seed, max_epochs",
        ),
        ("training: {max_epochs: 0}", "training.max_epochs is 0; it must be >= 1 and <= 10000"),
        ("training: 3", "training is 3; expected a mapping of seed, max_epochs"),
        ("training:", "training is None; expected a mapping of seed"),
        (
            "model: {name: transformer}",
            "unknown model 'transformer' (did you mean transformer_dcn?)",
        ),
        ("model: {dropout: 1.0}", "mine.yaml: model.dropout is 1.0; it must be >= 0 and < 1"),
        ("model: {name: [din]}", "mine.yaml: model: unknown model ['din']; known: din"),
        ("training: {seed: 1180591620717411303424}", "training.seed is 1180591620717411303424; it"),
        ("training: {batch_size: 1e12}", "training.batch_size is 1000000000000.0; expected int"),
        ("training: {batch_size: 1000000000000}", "it must be >= 2 and <= 1048576"),
        ("training: {learning_rate: .inf}", "training.learning_rate is inf; it must be a finite"),
        ("training: {learning_rate: .nan}", "training.learning_rate is nan; it must be a finite"),
        ("training: {max_epochs: true}", "training.max_epochs is True; expected int"),
        (
            "model: {hidden_dims: [100000000]}",
            "model.hidden_dims is 100000000; it must be >= 1 and",
        ),
        ("model: {hidden_dims: 8}", "model.hidden_dims is 8; expected a list of int"),
        ("training: {optimizer: sgd}", "training.optimizer is 'sgd'; it must be one of row_adamw"),
        (
            "training: {learning_rate: 2, weight_decay: 0.5}",
            "training.weight_decay is 0.5; times learning_rate (2.0) it must be below 1",
        ),
        (
            "model: {name: transformer_dcn, n_heads: 3, features: {projection_dim: 5}}",
            "model.n_heads is 3; it must divide 10, which follows from features.projection_dim",
        ),
        (
            "model: {name: similarity_attention, features: {projection_dim: 6}}",
            "model.cross_attention_heads is 4; it must divide 6, which follows from features.proj",
        ),
        ("encoders: {text: {precision: half}}", "encoders.text.precision is 'half'; it must be"),
        ("seed: x", "training.seed is 'x'; expected int"),
        ("model: {droput: 0.1}", "unknown setting droput"),
        ("model: 3", "mine.yaml: model is 3; expected a mapping of settings"),
        ("model:", "mine.yaml: model is None; expected a mapping of settings"),
        ("- 1", "instead of sections"),
        ("a: [", "line 1: not valid YAML"),
        ("extends: nothing", "unknown preset 'nothing': neither a file nor one of"),
        ("extends: [din]", "mine.yaml: extends is ['din']; expected a name or a path"),
    ],
)
def test_errors_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path / "mine.yaml", text)
    with pytest.raises(SettingsError) as error:
        load_preset(path)
    assert message in str(error.value)
    assert "mine.yaml" in str(error.value) or "extends: nothing" in text


def test_the_error_about_an_unknown_name_lists_the_shipped_presets() -> None:
    with pytest.raises(SettingsError) as error:
        load_preset("improved")
    assert "unknown preset 'improved' (did you mean improved_mmctr?): " in str(error.value)
    assert ", ".join(shipped_presets()) in str(error.value)


def test_all_faults_of_a_preset_are_listed_at_once(tmp_path: Path) -> None:
    text = "trainings: {}\ntraining: {epochs: 3, patience: 0}\nmodel: {name: dim}\n"
    path = _write(tmp_path / "mine.yaml", text)
    with pytest.raises(SettingsError) as error:
        load_preset(path)
    first, *faults = str(error.value).splitlines()
    assert first == f"preset {path}: 4 faults:"
    beginnings = [
        "  model: unknown model 'dim' (did you mean din?); known: ",
        "  unknown setting trainings (did you mean training?); known: ",
        "  training: unknown setting epochs (did you mean max_epochs?); known: ",
        "  training.patience is 0; it must be >= 1 and <= 10000",
    ]
    for fault, beginning in zip(faults, beginnings, strict=True):
        assert fault.startswith(beginning)


def test_sample_is_the_default_only_without_data(tmp_path: Path) -> None:
    assert preset_name(Deployment.from_environment({})) == "sample"
    assert preset_name(Deployment.from_environment({"MMCTR_PRESET": "text_only"})) == "text_only"
    with pytest.raises(SettingsError) as error:
        preset_name(Deployment.from_environment({"MMCTR_DATA_DIR": str(tmp_path)}))
    assert ", ".join(shipped_presets()) in str(error.value)


def test_an_error_names_all_files_that_a_preset_extends(tmp_path: Path) -> None:
    _write(tmp_path / "base.yaml", "extends: sample\ntraining: {patience: 0}\n")
    path = _write(tmp_path / "top.yaml", "extends: base.yaml\n")
    with pytest.raises(SettingsError) as error:
        load_preset(path)
    assert str(error.value) == (
        f"preset {path} extending {tmp_path / 'base.yaml'} extending sample extending "
        "improved_mmctr: training.patience is 0; it must be >= 1 and <= 10000"
    )


def seeds_in(settings: Settings, path: str = "") -> dict[str, int]:
    """Return every setting that has `seed` in its name, by its path."""
    seeds = {}
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{path}.{field.name}".lstrip(".")
        if isinstance(value, Settings):
            seeds |= seeds_in(value, name)
        elif "seed" in field.name:
            seeds[name] = value
    return seeds


@pytest.mark.parametrize("name", shipped_presets())
def test_one_seed_sets_every_seed_of_a_preset(name: str, tmp_path: Path) -> None:
    base = load_preset(name)
    preset = load_preset(_write(tmp_path / "mine.yaml", f"extends: {name}\nseed: 7\n"))
    seeds = seeds_in(preset)
    assert {"training.seed", "fusion.attention.seed"} <= set(seeds)
    assert ("model.code_seed" in seeds) == (name == "din_semantic_ids")
    assert set(seeds.values()) == {7}
    # Nothing else changes.
    fusion = dataclasses.replace(preset.fusion, attention=base.fusion.attention)
    training = dataclasses.replace(preset.training, seed=base.training.seed)
    model = preset.model
    if "model.code_seed" in seeds:
        model = dataclasses.replace(model, code_seed=base.model.code_seed)
    assert dataclasses.replace(preset, fusion=fusion, training=training, model=model) == base


def test_specific_seeds_override_common_ones_and_files_override_their_base(tmp_path: Path) -> None:
    _write(
        tmp_path / "base.yaml",
        "extends: din\nseed: 7\nmodel: {name: din_semantic_ids}\ntraining: {seed: 8}\n",
    )
    base = seeds_in(load_preset(str(tmp_path / "base.yaml")))
    assert base == {"training.seed": 8, "fusion.attention.seed": 7, "model.code_seed": 7}
    path = _write(tmp_path / "top.yaml", "extends: base.yaml\nseed: 9\nmodel: {code_seed: 1}\n")
    top = seeds_in(load_preset(path))
    assert top == {"training.seed": 9, "fusion.attention.seed": 9, "model.code_seed": 1}
