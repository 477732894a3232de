"""Dagster's configuration has the values of the presets and the bounds of the settings."""

import dataclasses
from typing import Literal

import dagster as dg
import pytest
from pydantic import ValidationError, create_model

from mmctr_pipeline.defs.config import (
    ASSET_SECTIONS,
    asset_config,
    config_class,
    model_field,
    run_config,
)
from mmctr_pipeline.models.config import ImprovedMmctrConfig
from mmctr_pipeline.presets.preset import load_preset, shipped_presets
from mmctr_pipeline.settings import Settings, setting
from mmctr_pipeline.training.config import TrainingConfig


def test_derived_config_has_bounds_choices_and_descriptions() -> None:
    derived = config_class(TrainingConfig(learning_rate=0.5))
    assert derived().learning_rate == 0.5
    assert "weight decay" in derived.model_fields["weight_decay"].description
    assert derived.model_fields["batch_size"].description.endswith("(>= 2 and <= 1048576)")
    with pytest.raises(ValidationError):
        derived(learning_rate=0.0)
    with pytest.raises(ValidationError):
        derived(schedule="linear")


def test_derived_config_converts_back_to_the_settings() -> None:
    preset = dataclasses.replace(
        load_preset("sample"),
        training=TrainingConfig(seed=9, batch_size=77),
        model=ImprovedMmctrConfig(hidden_dims=(8, 4)),
    )
    config = asset_config("trained_model", preset)()
    assert config.settings("training", TrainingConfig) == preset.training
    assert config.model_settings() == preset.model


@dataclasses.dataclass(frozen=True)
class OtherModelConfig(Settings):
    """A second model, to choose from."""

    name: Literal["other"] = "other"
    dim: int = setting(8, "a width", ge=1)


def test_models_are_a_union_discriminated_by_name() -> None:
    models = {"improved_mmctr": ImprovedMmctrConfig, "other": OtherModelConfig}
    field = model_field(ImprovedMmctrConfig(dropout=0.1), models)
    config = create_model("Config", __base__=dg.Config, model=field)
    seen = []

    def chosen(config):
        seen.append(config.model.model_dump())

    chosen.__annotations__ = {"config": config, "return": None}
    job = dg.Definitions(
        assets=[dg.asset(chosen)], jobs=[dg.define_asset_job("job")]
    ).resolve_job_def("job")
    for values in ({}, {"model": {"other": {"dim": 3}}}):
        job.execute_in_process(run_config={"ops": {"chosen": {"config": values}}})
    assert (seen[0]["name"], seen[0]["dropout"]) == ("improved_mmctr", 0.1)
    assert seen[1] == {"name": "other", "dim": 3}
    with pytest.raises(dg.DagsterInvalidConfigError):
        job.execute_in_process(
            run_config={"ops": {"chosen": {"config": {"model": {"no_such_model": {}}}}}}
        )


def test_bounds_apply_to_each_number_in_a_list() -> None:
    with pytest.raises(ValidationError):
        config_class(ImprovedMmctrConfig())(hidden_dims=[64, 0])


@pytest.mark.parametrize("name", shipped_presets())
def test_run_config_spells_out_every_value_of_a_preset(name: str) -> None:
    preset = load_preset(name)
    ops = run_config(preset)["ops"]
    assert set(ops) == set(ASSET_SECTIONS)
    for asset, config in ops.items():
        derived = asset_config(asset, load_preset("sample"))(**config["config"])
        expected = dict(config["config"])
        if "model" in expected:
            assert list(expected["model"]) == [preset.model.name]
            expected["model"] = {"name": preset.model.name, **expected["model"][preset.model.name]}
        assert derived.model_dump(mode="json") == expected


def test_defaults_come_from_the_preset() -> None:
    preset = load_preset("improved_mmctr")
    assert asset_config("trained_model", preset)().training.batch_size == 2048
    checks = dataclasses.replace(preset.checks, auc_floor=0.625, beat_baselines=False)
    with_floor = dataclasses.replace(preset, checks=checks)
    for name in ("trained_model_checks", "champion"):
        config = asset_config(name, with_floor)()
        assert (config.checks.auc_floor, config.checks.beat_baselines) == (0.625, False)
        assert not hasattr(config.checks, "max_missing_images")


def test_auc_floor_is_not_in_the_training_config() -> None:
    assert "checks" not in asset_config("trained_model")().resolved


def test_a_misspelt_setting_fails_before_anything_runs() -> None:
    from mmctr_pipeline.definitions import defs

    job = defs.resolve_job_def("full_pipeline")
    bad = {"ops": {"trained_model": {"config": {"training": {"learning_rat": 1.0}}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="learning_rat"):
        job.execute_in_process(run_config=bad)
