"""Presets: one YAML file per recipe, shipped or written by the user, which may extend another."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmctr_pipeline.encoders.config import EncodersConfig
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.models.config import ImprovedMmctrConfig, ModelConfig, model_config_from
from mmctr_pipeline.settings import Settings, SettingsError, setting
from mmctr_pipeline.training.config import TrainingConfig

PRESET_DIR = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class ChecksConfig(Settings):
    """The section `checks` of a preset."""

    auc_floor: float = setting(0.5, "least validation AUC for a submission", ge=0, le=1)
    max_missing_images: float = setting(
        0.2, "largest share of items without an image file", ge=0, le=1
    )
    max_unreadable_images: float = setting(
        0.01, "largest share of items with an image file that cannot be decoded", ge=0, le=1
    )
    min_explained_variance: float = setting(
        0.5, "least share of the variance that the fused vectors keep", ge=0, le=1
    )
    max_target_in_history: float = setting(
        0.05, "largest share of train or valid rows with the target in their history", ge=0, le=1
    )


@dataclasses.dataclass(frozen=True)
class Preset(Settings):
    """A whole recipe: the defaults of every asset of one deployment."""

    encoders: EncodersConfig = dataclasses.field(default_factory=EncodersConfig)
    fusion: FusionConfig = dataclasses.field(default_factory=FusionConfig)
    model: ModelConfig = dataclasses.field(default_factory=ImprovedMmctrConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    checks: ChecksConfig = dataclasses.field(default_factory=ChecksConfig)


def shipped_presets() -> list[str]:
    """Return the names of the presets in the package, sorted."""
    return sorted(path.stem for path in PRESET_DIR.glob("*.yaml"))


def preset_name(deployment: Deployment) -> str:
    """Return the deployment's preset, or `sample` if it has neither data nor a preset.

    Raises `SettingsError`, listing the presets, if it has data but no preset.
    """
    if deployment.preset is not None:
        return deployment.preset
    if deployment.data_dir is None:
        return "sample"
    raise SettingsError(
        f"MMCTR_DATA_DIR is {str(deployment.data_dir)!r} but MMCTR_PRESET is not set; choose one "
        f"of {', '.join(shipped_presets())}, or the path of a YAML file that extends one of them"
    )


def load_preset(name_or_path: str) -> Preset:
    """Load a shipped preset by name, or a YAML file by path, with the presets it extends.

    Raises `SettingsError` naming the file, the section and the known names.
    """
    sections = _read_sections(name_or_path, ())
    where = f"preset {name_or_path}"
    model = sections.pop("model", {})
    if not isinstance(model, Mapping):
        raise SettingsError(f"{where}.model: expected a mapping of settings, got {model!r}")
    model_config = model_config_from({"name": "improved_mmctr", **model}, f"{where}.model")
    return dataclasses.replace(Preset.from_mapping(sections, where), model=model_config)


def _read_sections(name_or_path: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = _find(name_or_path, seen[-1].parent if seen else Path.cwd())
    if path in seen:
        chain = " -> ".join(p.name for p in (*seen, path))
        raise SettingsError(f"presets extend each other in a circle: {chain}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a YAML file: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected a mapping of sections, got {content!r}")
    base = content.pop("extends", None)
    if base is None:
        return content
    return _merged(_read_sections(str(base), (*seen, path)), content)


def _find(name_or_path: str, beside: Path) -> Path:
    if name_or_path in shipped_presets():
        return PRESET_DIR / f"{name_or_path}.yaml"
    path = beside / name_or_path
    if path.is_file():
        return path.resolve()
    raise SettingsError(
        f"unknown preset {name_or_path!r}: neither a file nor one of {', '.join(shipped_presets())}"
    )


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            # Another model has other settings.
            is_same = value.get("name", old.get("name")) == old.get("name")
            value = _merged(old if is_same else {}, value)
        merged[name] = value
    return merged
