"""Dagster configuration, derived from the core's settings with the preset's values as defaults."""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import dagster as dg
import pydantic

from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.models.config import MODEL_CONFIGS, ModelConfig
from mmctr_pipeline.presets.preset import Preset, load_preset, preset_name
from mmctr_pipeline.settings import Settings

SettingsT = TypeVar("SettingsT", bound=Settings)

ASSET_SECTIONS: dict[str, dict[str, str]] = {
    "text_embeddings": {"encoder": "encoders.text"},
    "image_embeddings": {
        "encoder": "encoders.image",
        "checks": "checks:max_missing_images,max_unreadable_images",
    },
    "fused_pca": {"fusion": "fusion", "checks": "checks:min_explained_variance"},
    "train_dataset": {"checks": "checks:max_target_in_history"},
    "trained_model": {"model": "model", "training": "training", "checks": "checks:auc_floor"},
}
"""For each configurable asset: its config fields, and the preset section each is derived from.

`section:a,b` takes only the fields `a` and `b` of a section.
"""


@functools.cache
def deployment() -> Deployment:
    """Return the environment of this process; read once, so that a process sees one deployment."""
    return Deployment.from_environment()


@functools.cache
def deployment_preset() -> Preset:
    """Return the preset of this process' environment."""
    return load_preset(preset_name(deployment()))


def asset_config(asset: str, preset: Preset | None = None) -> Any:
    """Return the `dg.Config` class of an asset, the preset's values being its defaults."""
    fields: dict[str, Any] = {}
    for name, section in ASSET_SECTIONS[asset].items():
        settings, only = _section(preset or deployment_preset(), section)
        if section == "model":
            fields[name] = model_field(settings, MODEL_CONFIGS)
            continue
        derived = config_class(settings, only)
        field = pydantic.Field(default_factory=derived, description=(type(settings).__doc__ or ""))
        fields[name] = (derived, field)
    class_name = "".join(part.capitalize() for part in asset.split("_")) + "Config"
    return pydantic.create_model(class_name, __base__=dg.Config, **fields)


def model_field(settings: Any, models: Mapping[str, type[Settings]]) -> tuple[Any, Any]:
    """Return the config field that chooses a model: a union told apart by `name`.

    `settings` are the model and values of the preset, and the default. A single model is no union
    to pydantic; its fields then stand without its name above them.
    """
    variants = {
        name: config_class(settings if name == settings.name else model())
        for name, model in models.items()
    }
    default, description = variants[settings.name], "the model, by name, with its settings"
    if len(variants) == 1:
        return default, pydantic.Field(default_factory=default, description=description)
    union = typing.Union[tuple(variants.values())]  # type: ignore[valid-type]  # noqa: UP007
    field = pydantic.Field(default_factory=default, discriminator="name", description=description)
    return union, field


def config_class(settings: Settings, only: tuple[str, ...] | None = None) -> type[dg.Config]:
    """Derive a `dg.Config` from settings: same names, bounds, choices and descriptions.

    The values of `settings` become the defaults; `only` restricts to some of the fields.
    """
    hints = typing.get_type_hints(type(settings))
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        if only is not None and field.name not in only:
            continue
        value = getattr(settings, field.name)
        if isinstance(value, Settings):
            derived = config_class(value)
            fields[field.name] = (derived, pydantic.Field(default_factory=derived))
            continue
        annotation, bounds = hints[field.name], dict(field.metadata.get("bounds", {}))
        if field.metadata.get("choices"):
            annotation = Literal[field.metadata["choices"]]
        if isinstance(value, tuple):
            element = typing.get_args(annotation)[0]
            annotation = list[typing.Annotated[element, pydantic.Field(**bounds)]]  # type: ignore[valid-type]
            value, bounds = list(value), {}
        fields[field.name] = (
            annotation,
            pydantic.Field(default=value, description=field.metadata.get("help"), **bounds),
        )
    name = f"{type(settings).__name__}Fields"
    return pydantic.create_model(name, __base__=dg.Config, **fields)


def to_settings(config: dg.Config, settings_class: type[SettingsT]) -> SettingsT:
    """Return the core settings that a derived config stands for."""
    return settings_class.from_mapping(config.model_dump(), settings_class.__name__)


def model_settings(config: dg.Config) -> ModelConfig:
    """Return the core settings of the model that a derived config names."""
    values = config.model_dump()
    return MODEL_CONFIGS[values["name"]].from_mapping(values, values["name"])


def run_config(preset: Preset) -> dict[str, Any]:
    """Return the Dagster run config that spells out every value of a preset."""
    ops: dict[str, Any] = {}
    for asset, sections in ASSET_SECTIONS.items():
        config = {}
        for name, section in sections.items():
            settings, only = _section(preset, section)
            values = settings.to_mapping()
            config[name] = {key: values[key] for key in values if only is None or key in only}
            if section == "model" and len(MODEL_CONFIGS) > 1:
                # Dagster spells the choice of a union as the key above its fields.
                config[name] = {config[name].pop("name"): config[name]}
        ops[asset] = {"config": config}
    return {"ops": ops}


def _section(preset: Preset, section: str) -> tuple[Settings, tuple[str, ...] | None]:
    path, _, only = section.partition(":")
    value: Any = preset
    for name in path.split("."):
        value = getattr(value, name)
    return value, tuple(only.split(",")) if only else None


def resolved(config: dg.Config) -> Mapping[str, Any]:
    """Return the configuration an asset ran with, as plain values for artefact and metadata."""
    return config.model_dump(mode="json")
