"""The saved model: weights with everything needed to score with them, and to trust them."""

import dataclasses
import pickle
import platform
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import torch

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import MODEL_CONFIGS, ModelConfig
from mmctr_pipeline.models.feature_spec import FeatureSpec
from mmctr_pipeline.training.ctr import TrainedCtr
from mmctr_pipeline.training.device import seeded

_FORMAT = "mmctr_pipeline.model"
_FORMAT_VERSION = 1


class ModelFileError(ValueError):
    """A file is not a model of this pipeline, or does not fit what it is used with."""


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A trained model as it lies on disk; every value is a tensor, a scalar, a dict or a list.

    `metrics` hold the validation AUC with its interval (see `TrainedCtr`), `evaluation` what else
    was found on the valid rows (`Evaluation.to_mapping`; empty in files of before), `history` one
    record per epoch. Where `final_fit` is there (`FinalFit`), the weights were trained on the valid
    rows too: all three are then of the selection run, and to score valid rows with these weights
    would validate nothing. `vector_identity` names the fused vectors that the model was trained on,
    `encoder_identities` what made the text and image vectors behind them, `transform_identity` the
    fitted fusion. `auc_floor` is the validation AUC below which nothing may be submitted.
    `n_parameters` counts the trained weights, buffers left out. `resolved_config` is the whole
    configuration of the run by section, `run_key` a hash of what decided on the result (see
    `training.checkpoint`), `created_at` a UTC time in ISO 8601.
    """

    state_dict: dict[str, torch.Tensor]
    n_parameters: int
    model_config: dict[str, Any]
    spec: dict[str, Any]
    training_config: dict[str, Any]
    metrics: dict[str, float]
    history: dict[str, Any]
    data_fingerprint: str
    vector_identity: str
    encoder_identities: dict[str, str]
    transform_identity: str
    auc_floor: float
    resolved_config: dict[str, Any]
    run_key: str
    library_versions: dict[str, str]
    created_at: str
    preset: str | None = None
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
    final_fit: dict[str, Any] | None = None

    @classmethod
    def from_trained(
        cls,
        trained: TrainedCtr,
        *,
        data_fingerprint: str,
        vector_identity: str,
        encoder_identities: Mapping[str, str],
        transform_identity: str,
        auc_floor: float,
        resolved_config: Mapping[str, Any],
        run_key: str,
        preset: str | None = None,
    ) -> Self:
        """Gather what training returned with where its inputs came from, as of now."""
        return cls(
            state_dict={
                name: tensor.detach().cpu() for name, tensor in trained.module.state_dict().items()
            },
            n_parameters=trained.n_parameters,
            model_config=trained.model_config.to_mapping(),
            spec=trained.spec.to_mapping(),
            training_config=trained.training_config.to_mapping(),
            metrics=dict(trained.metrics),
            history=trained.history.to_mapping(),
            data_fingerprint=data_fingerprint,
            vector_identity=vector_identity,
            encoder_identities=dict(encoder_identities),
            transform_identity=transform_identity,
            auc_floor=auc_floor,
            resolved_config=dict(resolved_config),
            run_key=run_key,
            library_versions=library_versions(),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            preset=preset,
            evaluation=trained.evaluation.to_mapping(),
            final_fit=dataclasses.asdict(trained.final_fit) if trained.final_fit else None,
        )

    @property
    def measured_on(self) -> str:
        """Say which model the metrics are of, where it is not the one in the file; else empty."""
        if self.final_fit is None:
            return ""
        return "of the selection run, before the final fit on train and valid rows"

    def description(self) -> dict[str, Any]:
        """Return everything but the weights, as JSON takes it."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "state_dict"
        }

    def save(self, path: Path) -> None:
        """Write to `path`, not atomically (see `registry.versions`).

        Raises `ModelFileError` where a value could not be read back with `weights_only=True`.
        """
        content = {"state_dict": self.state_dict, **self.description()}
        _require_plain(content, "model")
        torch.save({"format": _FORMAT, "format_version": _FORMAT_VERSION, **content}, path)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Self:
        """Read what `save` wrote, the weights onto `device`.

        Only tensors and plain values are read, never code. Raises `FileNotFoundError`, or
        `ModelFileError` for a truncated or foreign file, or one of a newer pipeline.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: train a model first (trained_model)")
        unreadable = f"{path} ({path.stat().st_size:,} bytes) cannot be read as a saved model"
        remedy = "materialise trained_model again, or restore the file"
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ModelFileError(
                    f"{unreadable}: it is truncated, or no torch file at all; {remedy}"
                )
        try:
            content = torch.load(path, map_location=device, weights_only=True)
        except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise ModelFileError(
                f"{unreadable}: it is damaged, or holds objects other than tensors and plain "
                f"values; {remedy}"
            ) from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ModelFileError(f"{path} is a torch file, but no model saved by this pipeline")
        if content["format_version"] != _FORMAT_VERSION:
            raise ModelFileError(
                f"{path} has model format {content['format_version']}, this pipeline reads "
                f"{_FORMAT_VERSION}; use the pipeline version that it names: "
                f"{content.get('library_versions', {}).get('mmctr_pipeline', 'unknown')}"
            )
        fields = dataclasses.fields(cls)
        # What later versions of the pipeline added has a default.
        missing = [f.name for f in fields if f.name not in content and _is_required(f)]
        if missing:
            raise ModelFileError(f"{path} lacks {', '.join(missing)}; materialise it again")
        return cls(**{f.name: content[f.name] for f in fields if f.name in content})


def model_settings(saved: Mapping[str, Any]) -> ModelConfig:
    """Return the settings that a model file records as `model_config`.

    Raises `ModelFileError` for an unknown model, `SettingsError` for unknown settings.
    """
    name = saved.get("name")
    if name not in MODEL_CONFIGS:
        raise ModelFileError(f"unknown model {name!r}; known: {', '.join(sorted(MODEL_CONFIGS))}")
    return MODEL_CONFIGS[name].from_mapping(saved, "saved model_config")


def build_module(model_file: ModelFile, device: torch.device | str = "cpu") -> CtrModel:
    """Return the model with its weights on `device`, in evaluation mode.

    Raises `SettingsError` for a configuration that this pipeline does not know, `ModelFileError`
    where the weights are not those of the configuration.
    """
    config = model_settings(model_file.model_config)
    spec = FeatureSpec.from_mapping(model_file.spec, "saved spec")
    # Not on the meta device, where initialisation first imports a compiler for seconds.
    with seeded(0, torch.device("cpu")):
        module = build_model(config, spec)
    weights = {name: tensor.to(device) for name, tensor in model_file.state_dict.items()}
    try:
        module.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ModelFileError(f"the weights do not fit the saved configuration: {error}") from error
    return module.eval()


def require_identity(
    model_file: ModelFile,
    vectors: VectorTable,
    modalities: Mapping[str, VectorTable] | None = None,
) -> None:
    """Raise `ModelFileError` unless these are the vectors that the model was trained on.

    `vectors` are the fused ones, `modalities` those of `text` and `image`.
    """
    pairs = [(model_file.vector_identity, vectors.identity)]
    for name, table in (modalities or {}).items():
        pairs.append((model_file.encoder_identities[name], table.identity))
    for trained_on, given in pairs:
        if given != trained_on:
            raise ModelFileError(
                f"the model was trained on vectors {trained_on!r}, but these are {given!r}: its "
                "scores would mean nothing; materialise trained_model on these vectors, or bring "
                "the former ones back"
            )


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a saved model depends on."""
    names = {
        "torch": "torch",
        "numpy": "numpy",
        "pyarrow": "pyarrow",
        "mmctr_pipeline": "mmctr-pipeline",
    }
    versions = {"python": platform.python_version()}
    for name, distribution in names.items():
        try:
            versions[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _require_plain(value: Any, where: str) -> None:
    """Raise where `weights_only=True` would refuse `value`: better at writing than at reading."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _require_plain(key, f"the keys of {where}")
            _require_plain(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            _require_plain(inner, f"{where}[{position}]")
    elif value is not None and type(value) not in (str, int, float, bool, torch.Tensor):
        raise ModelFileError(
            f"{where} is a {type(value).__name__}; "
            "a saved model holds tensors and plain values only"
        )
