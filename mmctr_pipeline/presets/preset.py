"""Presets: one YAML file per recipe, shipped or written by the user, which may extend another."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.encoders.config import EncodersConfig
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.models.config import (
    MODEL_CONFIGS,
    ImprovedMmctrConfig,
    ModelConfig,
    model_config_from,
)
from mmctr_pipeline.monitoring.config import MonitoringConfig
from mmctr_pipeline.plugins import is_plugin
from mmctr_pipeline.presets.yaml_file import read_yaml
from mmctr_pipeline.registry.config import PromotionConfig
from mmctr_pipeline.settings import Settings, SettingsError, nearest, setting, shown
from mmctr_pipeline.training.config import TrainingConfig

PRESET_DIR = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class ChecksConfig(Settings):
    """The section `checks` of a preset."""

    auc_floor: float | None = setting(
        None,
        "least validation AUC for a submission; by default none, except 0.85 on MicroLens_1M_x1",
        ge=0,
        le=1,
    )
    beat_baselines: bool = setting(
        True,
        "only submit a model with a better validation AUC than the best trivial baseline "
        "(popularity, click rates, title cosine) on the same rows",
    )
    max_missing_images: float = setting(
        0.2, "largest share of items without an image file", ge=0, le=1
    )
    max_unreadable_images: float = setting(
        0.01, "largest share of items with an image file that cannot be decoded", ge=0, le=1
    )
    max_outlier_vectors: float = setting(
        0.01,
        "largest share of vectors with a norm far from the others; these count as missing",
        ge=0,
        le=1,
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

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    encoders: EncodersConfig = dataclasses.field(default_factory=EncodersConfig)
    fusion: FusionConfig = dataclasses.field(default_factory=FusionConfig)
    model: ModelConfig = dataclasses.field(default_factory=ImprovedMmctrConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    checks: ChecksConfig = dataclasses.field(default_factory=ChecksConfig)
    promotion: PromotionConfig = dataclasses.field(default_factory=PromotionConfig)
    monitoring: MonitoringConfig = dataclasses.field(default_factory=MonitoringConfig)


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

    `seed: N` at the top of a file sets every seed that the file itself does not set.

    Raises `SettingsError` naming the files, all wrong settings and the known names.
    """
    sections, paths = _read_sections(name_or_path, ())
    where = f"preset {' extending '.join(map(_label, paths))}"
    return preset_from(sections, where)


def preset_from(sections: Mapping[str, Any], where: str) -> Preset:
    """Return the preset with these sections; raises `SettingsError` with all faults in them."""
    model = sections.get("model", {})
    if isinstance(model, Mapping):
        model = {"name": ImprovedMmctrConfig.name, **model}
    faults: list[str] = []
    try:
        model_config = model_config_from(model, "", "model")
    except SettingsError as error:
        faults += error.faults
    try:
        others = {name: value for name, value in sections.items() if name != "model"}
        preset = Preset.from_mapping(others)
    except SettingsError as error:
        faults += error.faults
    if faults:
        raise SettingsError(where, faults)
    return dataclasses.replace(preset, model=model_config)


def _read_sections(
    name_or_path: str, seen: tuple[Path, ...]
) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Return the sections of a preset and the files that they come from, the extending one first.

    `seen` are the files whose `extends` led to this one.
    """
    path = _find(name_or_path, seen[-1].parent if seen else Path.cwd())
    if path in seen:
        chain = " -> ".join(extending.name for extending in (*seen, path))
        raise SettingsError(f"presets extend each other in a circle: {chain}")
    content = read_yaml(path)
    base: dict[str, Any] = {}
    paths: tuple[Path, ...] = ()
    if "extends" in content:
        extended = content.pop("extends")
        if not isinstance(extended, str):
            raise SettingsError(f"{path}: extends is {shown(extended)}; expected a name or a path")
        base, paths = _read_sections(extended, (*seen, path))
    if "seed" in content:
        content = _with_all_seeds(content, base)
    return merged(base, content), (path, *paths)


def _with_all_seeds(content: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's sections, with its `seed` for each seed that the file does not set."""
    rest = {name: value for name, value in content.items() if name != "seed"}
    seed = content["seed"]
    seeds: dict[str, Any] = {"training": {"seed": seed}, "fusion": {"attention": {"seed": seed}}}
    models = [rest.get("model"), base.get("model")]
    names = [model.get("name") for model in models if isinstance(model, Mapping)]
    name = next((name for name in names if isinstance(name, str)), ImprovedMmctrConfig.name)
    if hasattr(MODEL_CONFIGS.get(name), "code_seed"):
        seeds["model"] = {"name": name, "code_seed": seed}
    return merged(seeds, rest)


def _label(path: Path) -> str:
    return path.stem if path.parent == PRESET_DIR else str(path)


def _find(name_or_path: str, beside: Path) -> Path:
    if name_or_path in shipped_presets():
        return PRESET_DIR / f"{name_or_path}.yaml"
    try:
        path = (beside / name_or_path).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character
        raise SettingsError(
            f"unknown preset {shown(name_or_path)}{nearest(name_or_path, shipped_presets())}: "
            f"neither a file nor one of {', '.join(shipped_presets())}"
        ) from None
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise SettingsError(f"preset {shown(name_or_path)} cannot be read: {error}") from error
    return path


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections of a preset with those of `changes`, which win."""
    result = dict(base)
    for name, value in changes.items():
        old = result.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = merged({} if _names_another(old, value) else old, value)
        result[name] = value
    return result


def _names_another(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether a section names another model, or an encoder or fusion of the user's own.

    Then it does not inherit the settings of the extended section, which may not exist there.
    """

    def differs(selector: str) -> bool:
        names = old.get(selector), new.get(selector, old.get(selector))
        is_own = any(isinstance(name, str) and is_plugin(name) for name in names)
        return names[0] != names[1] and (selector == "name" or is_own)

    return any(map(differs, ("name", "source", "method")))
