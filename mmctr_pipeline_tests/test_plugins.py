"""A model of the user's own works from one file, and only where its package is allowed."""

import dataclasses
import logging
from pathlib import Path

import dagster as dg
import pytest
import torch

from mmctr_pipeline import Scorer
from mmctr_pipeline.defs.config import asset_config, run_config
from mmctr_pipeline.models.config import model_config_from
from mmctr_pipeline.pipeline import train
from mmctr_pipeline.plugins import VARIABLE, plugin_class, plugin_code
from mmctr_pipeline.presets.preset import Preset, load_preset
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, small_sample

REPOSITORY = Path(__file__).parents[1]
PRESET = REPOSITORY / "examples" / "last_item.yaml"
NAME = "examples.last_item.LastItem"
CPU = torch.device("cpu")


@pytest.fixture
def preset(monkeypatch: pytest.MonkeyPatch) -> Preset:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv(VARIABLE, "another, examples")
    return load_preset(str(PRESET))


def test_the_documented_model_learns_is_saved_and_scores(
    preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert preset.model.name == NAME
    dataset, vectors = small_sample(n_valid=600)
    training = dataclasses.replace(QUICK_TRAINING, max_epochs=4, learning_rate=0.005)
    trained = train(dataset, vectors, preset.model, training, CPU)
    assert trained.metrics["valid_auc"] > 0.8
    model = ModelFile.from_trained(
        trained, vectors, data_fingerprint="", resolved_config={}, run_key=""
    )
    model.save(tmp_path / "model.pt")
    saved = ModelFile.load(tmp_path / "model.pt")
    scorer = Scorer(saved, dataset, vectors, CPU)
    assert len({*scorer.score([1, 2, 3, 4], [5, 6]).round(6).tolist()}) > 1

    monkeypatch.setenv(VARIABLE, "another")
    with pytest.raises(SettingsError, match="Fix, if you trust this code: export MMCTR_PLUGINS"):
        Scorer(saved, dataset, vectors, CPU)


def test_its_settings_are_those_of_its_dataclass_with_bounds_in_dagster_too(
    preset: Preset,
) -> None:
    assert preset.model.to_mapping()["n_items"] == 3
    with pytest.raises(SettingsError, match=r"n_items.* 65"):
        model_config_from({"name": NAME, "n_items": 65}, "here")
    with pytest.raises(SettingsError, match="n_itms"):
        model_config_from({"name": NAME, "n_itms": 1}, "here")

    config_class = asset_config("trained_model", preset)
    seen = []

    @dg.op
    def op(config: config_class) -> None:  # type: ignore[valid-type]
        seen.append(config.model_settings())  # type: ignore[attr-defined]

    @dg.job
    def job() -> None:
        op()

    config = run_config(preset)["ops"]["trained_model"]
    assert job.execute_in_process(run_config={"ops": {"op": config}}).success
    assert seen == [preset.model]


def test_a_package_that_is_not_allowed_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass A: pass\n")
    monkeypatch.chdir(tmp_path)
    for allowed in ("", "host", "hostile.py"):
        monkeypatch.setenv(VARIABLE, allowed)
        with pytest.raises(SettingsError, match="only if MMCTR_PLUGINS names it"):
            plugin_class("hostile.A", "model")
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv(VARIABLE, "hostile")
    assert plugin_class("hostile.A", "model").__name__ == "A"
    with pytest.raises(SettingsError, match="the module hostile has no class B"):
        plugin_class("hostile.B", "model")
    with pytest.raises(SettingsError, match="needs a class attribute Config"):
        model_config_from({"name": "hostile.A"}, "here")
    monkeypatch.setenv(VARIABLE, "absent")
    with pytest.raises(SettingsError, match="absent cannot be imported"):
        plugin_class("absent.A", "model")


def test_changed_code_of_a_model_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, "own_models")
    package = tmp_path / "own_models"
    package.mkdir()
    (package / "layers.py").write_text("WIDTH = 1\n")
    (package / "__init__.py").write_text("from own_models.layers import WIDTH\nclass A: pass\n")
    plugin_class("own_models.A", "model")
    before = plugin_code("own_models.A")
    assert plugin_code("similarity_attention") == ""

    from mmctr_pipeline import code_version

    (package / "layers.py").write_text("WIDTH = 2\n")
    for cached in (code_version.code_version, code_version._parse, code_version._path):
        cached.cache_clear()
    assert plugin_code("own_models.A") != before != ""
