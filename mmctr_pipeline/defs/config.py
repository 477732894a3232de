"""Dagster configuration, derived from the core's settings with the preset's values as defaults."""

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import dagster as dg
import pydantic
from dagster._utils.schedules import is_valid_cron_string

from mmctr_pipeline.environment import Deployment, DeploymentError
from mmctr_pipeline.models.config import MODEL_CONFIGS, ModelConfig, model_config_from
from mmctr_pipeline.monitoring.config import DATA_LEVELS, SCORE_LEVELS
from mmctr_pipeline.presets.preset import Preset, load_preset, merged, preset_from, preset_name
from mmctr_pipeline.settings import Settings, described

SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a preset, named by its path; `only` selects some of its fields."""

    path: str
    only: tuple[str, ...] | None = None


_AUC_GATE = ("auc_floor", "beat_baselines")

ASSET_SECTIONS: dict[str, dict[str, Section]] = {
    "text_embeddings": {
        "encoder": Section("encoders.text"),
        "checks": Section("checks", ("max_outlier_vectors",)),
    },
    "image_embeddings": {
        "encoder": Section("encoders.image"),
        "checks": Section(
            "checks", ("max_missing_images", "max_unreadable_images", "max_outlier_vectors")
        ),
    },
    "fused_pca": {
        "fusion": Section("fusion"),
        "data": Section("data"),
        "checks": Section("checks", ("min_explained_variance",)),
    },
    "train_dataset": {
        "data": Section("data"),
        "checks": Section("checks", ("max_target_in_history",)),
    },
    "trained_model": {
        "model": Section("model"),
        "training": Section("training"),
    },
    "source_checks": {
        "data": Section("data"),
        "monitoring": Section("monitoring", DATA_LEVELS),
    },
    # Not part of trained_model's settings, so that changing the floor needs no new training.
    "trained_model_checks": {"checks": Section("checks", _AUC_GATE)},
    "champion": {"promotion": Section("promotion"), "checks": Section("checks", _AUC_GATE)},
    "submission_csv_checks": {"monitoring": Section("monitoring", SCORE_LEVELS)},
}
"""For each configurable asset or group of checks: its config fields, and the section of the preset
that each field comes from."""


class AssetConfig(dg.Config):
    """Base class of the assets' configurations; their fields follow from `ASSET_SECTIONS`."""

    @property
    def resolved(self) -> dict[str, Any]:
        """The configuration as plain values, for artefacts and metadata."""
        return self.model_dump(mode="json")

    def settings(self, field: str, settings_class: type[SettingsT]) -> SettingsT:
        """Return the core settings of a field."""
        return settings_class.from_mapping(self.model_dump()[field], section=field)

    def model_settings(self) -> ModelConfig:
        """Return the core settings of the field `model`; the model's name decides their class."""
        return model_config_from(self.model_dump()["model"], "run configuration", "model")


@functools.cache
def current_deployment() -> Deployment:
    """Return the deployment of this process, read from the environment once."""
    return Deployment.from_environment()


@functools.cache
def deployment_preset() -> Preset:
    """Return the preset of this process' deployment."""
    return load_preset(preset_name(current_deployment()))


def nightly_cron() -> str:
    """Return MMCTR_CRON; raise `DeploymentError` if it is no cron expression."""
    cron = current_deployment().cron
    if not is_valid_cron_string(cron):
        raise DeploymentError(
            f"MMCTR_CRON is {cron!r}, which is not a cron expression: five fields for minute, "
            'hour, day of month, month and day of week, such as "0 2 * * *"'
        )
    return cron


def asset_config(asset: str, preset: Preset | None = None) -> type[AssetConfig]:
    """Return the configuration class of an asset, with the preset's values as defaults."""
    fields: dict[str, Any] = {}
    for name, section in ASSET_SECTIONS[asset].items():
        settings: Any = operator.attrgetter(section.path)(preset or deployment_preset())
        if section.path == "model":
            own = {settings.name: type(settings)}  # a model of the user's own, if it is one
            fields[name] = model_field(settings, {**MODEL_CONFIGS, **own})
        else:
            derived = config_class(settings, section.path, section.only)
            field = pydantic.Field(default_factory=derived, description=type(settings).__doc__)
            fields[name] = (derived, field)
    class_name = asset.title().replace("_", "") + "Config"
    return pydantic.create_model(class_name, __base__=AssetConfig, **fields)


def model_field(settings: Any, models: Mapping[str, type[Settings]]) -> tuple[Any, Any]:
    """Return the config field that chooses a model: a union discriminated by `name`.

    The default is `settings`: the preset's model with its values.
    """
    variants = {
        name: config_class(settings if name == settings.name else model(), "model")
        for name, model in models.items()
    }
    default, description = variants[settings.name], "the model, by name, with its settings"
    field = pydantic.Field(default_factory=default, discriminator="name", description=description)
    return functools.reduce(operator.or_, variants.values()), field


def config_class(
    settings: Settings, section: str = "", only: tuple[str, ...] | None = None
) -> type[dg.Config]:
    """Derive a `dg.Config` from settings: same names, types and descriptions.

    Values that the settings refuse are refused with the same message.

    Parameters
    ----------
    settings
        The settings to derive from; their values become the defaults.
    section
        Path of the section in a preset, for messages.
    only
        Names of the fields to keep; None for all.
    """
    hints = typing.get_type_hints(type(settings))
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        if only is not None and field.name not in only:
            continue
        value = getattr(settings, field.name)
        if isinstance(value, Settings):
            derived = config_class(value, f"{section}.{field.name}")
            fields[field.name] = (derived, pydantic.Field(default_factory=derived))
            continue
        hint = hints[field.name]
        if typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) not in (
            typing.get_args(hint)
        ):
            # Dagster accepts no union of plain types except one with None. So this field is
            # declared as Any, and `check` validates its value.
            hint = Any
        if isinstance(value, tuple):
            hint, value = _LIST[typing.get_args(hint)[0]], list(value)
        fields[field.name] = (hint, pydantic.Field(value, description=described(field)))

    def check(cls: type, values: Any) -> Any:
        if isinstance(values, Mapping):
            require_valid(settings, values, "run configuration", section)
        return values

    name = f"{type(settings).__name__}Fields"
    validators: Any = {"check": pydantic.model_validator(mode="before")(check)}
    return pydantic.create_model(name, __base__=dg.Config, __validators__=validators, **fields)


def require_valid(settings: Settings, values: Mapping[str, Any], where: str, section: str) -> None:
    """Raise `SettingsError` unless `values` are valid changes of `settings`.

    All values are checked together, since some settings limit each other.

    Parameters
    ----------
    settings
        The settings that `values` would override; not modified.
    values
        New values by name.
    where, section
        For the message, as in `Settings.from_mapping`.
    """
    merged = settings.to_mapping()
    for name, value in values.items():
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = {**old, **value}
        merged[name] = value
    type(settings).from_mapping(merged, where, section)


# `list`, typed as Any: `config_class` subscripts it with a type known only at run time, and a type
# checker would reject that.
_LIST: Any = list


def preset_of_run(config: Mapping[str, Any]) -> Preset:
    """Return the deployment's preset with the changes of a run's config."""
    values = deployment_preset().to_mapping()
    for asset, sections in ASSET_SECTIONS.items():
        given = config.get("ops", {}).get(asset, {}).get("config", {})
        for name in sections.keys() & given.keys():
            change = given[name]
            if sections[name].path == "model":
                # The name of the chosen variant is a key around its fields, see `run_config`.
                ((model, fields),) = change.items()
                change = {"name": model, **fields}
            for section in reversed(sections[name].path.split(".")):
                change = {section: change}
            values = merged(values, change)
    return preset_from(values, "run configuration")


def run_config(preset: Preset) -> dict[str, Any]:
    """Return the Dagster run config that spells out every value of a preset."""
    ops: dict[str, Any] = {}
    for asset in ASSET_SECTIONS:
        config = asset_config(asset, preset)().resolved
        if "model" in config:
            # In a run config, Dagster names the chosen variant by a key around its fields:
            # {"din": {...}}, not {"name": "din", ...}.
            config["model"] = {config["model"].pop("name"): config["model"]}
        ops[asset] = {"config": config}
    return {"ops": ops}
