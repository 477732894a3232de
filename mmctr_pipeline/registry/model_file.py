"""The saved model: weights, and everything needed to score with them and to trust them."""

import dataclasses
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from pickle import PickleError
from typing import Any, Self

import torch

from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import model_config_from
from mmctr_pipeline.training.ctr import TrainedCtr
from mmctr_pipeline.training.device import seeded

_FORMAT = "mmctr_pipeline.model"
_FORMAT_VERSION = 1


class ModelFileError(ValueError):
    """A file is not a model of this pipeline, or does not match the data it is used with."""


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A trained model as stored on disk; every value is a tensor, a scalar, a dict or a list.

    `metrics` holds the validation AUC with its interval (see `TrainedCtr`), `evaluation` the other
    measurements on the valid rows (`MetricsReport.to_mapping`; empty in old files), `history` one
    record per epoch. With `final_fit` (`FinalFit`), the weights were trained on the valid rows too;
    all three then describe the selection run, and scoring valid rows with these weights validates
    nothing. `vector_identity` names the fused vectors that the model was trained on,
    `encoder_identities` the encoders of the text and image vectors behind them,
    `transform_identity` the fitted fusion. Below the validation AUC `auc_floor` nothing may be
    submitted. `n_parameters` counts the trained weights without buffers. `resolved_config` is the
    whole configuration of the run by section, `run_key` a hash of everything that decides the
    result (see `training.checkpoint`), `created_at` a UTC time in ISO 8601.
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
        vectors: ItemVectors,
        *,
        data_fingerprint: str,
        auc_floor: float,
        resolved_config: Mapping[str, Any],
        run_key: str,
        preset: str | None = None,
    ) -> Self:
        """Combine the result of training with the identities of its inputs.

        Parameters
        ----------
        trained
            Result of training.
        vectors
            The vectors it was trained on.
        data_fingerprint
            Content hash of the dataset it was trained on.
        auc_floor
            Validation AUC below which nothing may be submitted.
        resolved_config
            The whole configuration of the run by section.
        run_key
            Hash of everything that decides the result.
        preset
            Name or path of the preset.
        """
        identities = _identities(vectors)
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
            vector_identity=vectors.fused.identity,
            encoder_identities={n: i for n, i in identities.items() if n != "fused"},
            transform_identity=vectors.fused.identity,
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
        """Which model the metrics describe, if it is not the one in the file; else empty."""
        if self.final_fit is None:
            return ""
        return "of the selection run, before the final fit on train and valid rows"

    def description(self) -> dict[str, Any]:
        """Return everything except the weights, as JSON values."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "state_dict"
        }

    def save(self, path: Path) -> None:
        """Write to `path`; for atomic writes see `registry.versions`.

        Raises `ModelFileError` if a value could not be read back with `weights_only=True`.
        """
        content = {"state_dict": self.state_dict, **self.description()}
        _require_plain(content, "model")
        torch.save({"format": _FORMAT, "format_version": _FORMAT_VERSION, **content}, path)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Self:
        """Read a file written by `save`, with the weights on `device`.

        Only tensors and plain values are read, never code. Raises `FileNotFoundError`, or
        `ModelFileError` for a truncated or foreign file, or one from a newer pipeline.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: train a model first (trained_model)")
        try:
            content = torch.load(path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, PickleError) as error:
            raise ModelFileError(
                f"{path} ({path.stat().st_size:,} bytes) cannot be read as a saved model: it is "
                "truncated, damaged, not a torch file, or holds objects other than tensors and "
                "plain values; materialise trained_model again, or restore the file"
            ) from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ModelFileError(f"{path} is a torch file, but not a model saved by this pipeline")
        if content["format_version"] != _FORMAT_VERSION:
            raise ModelFileError(
                f"{path} has model format {content['format_version']}, this pipeline reads "
                f"{_FORMAT_VERSION}; use the pipeline version that wrote it: "
                f"{content.get('library_versions', {}).get('mmctr_pipeline', 'unknown')}"
            )
        fields = dataclasses.fields(cls)
        # Fields added by later versions of the pipeline have a default.
        missing = [f.name for f in fields if f.name not in content and _is_required(f)]
        if missing:
            raise ModelFileError(f"{path} lacks {', '.join(missing)}; materialise it again")
        return cls(**{f.name: content[f.name] for f in fields if f.name in content})


def build_module(model_file: ModelFile, device: torch.device | str = "cpu") -> CtrModel:
    """Return the model with its weights on `device`, in evaluation mode.

    Raises `SettingsError` for a configuration that this pipeline does not know, `ModelFileError`
    if the weights do not match the configuration.
    """
    config = model_config_from(model_file.model_config, "saved model_config")
    spec = FeatureSpec.from_mapping(model_file.spec, "saved spec")
    # Not on the meta device: initialisation there first imports a compiler, which takes seconds.
    with seeded(0, torch.device("cpu")):
        module = build_model(config, spec)
    weights = {name: tensor.to(device) for name, tensor in model_file.state_dict.items()}
    try:
        module.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ModelFileError(f"the weights do not fit the saved configuration: {error}") from error
    return module.eval()


def require_identity(model_file: ModelFile, vectors: ItemVectors) -> None:
    """Raise `ModelFileError` unless `vectors` are those that the model was trained on."""
    recorded = {"fused": model_file.vector_identity, **model_file.encoder_identities}
    for name, identity in _identities(vectors).items():
        if identity != recorded.get(name):
            raise ModelFileError(
                f"the model was trained on {name} vectors {recorded.get(name)!r}, but these are "
                f"{identity!r}: its scores would mean nothing; materialise trained_model on these "
                "vectors, or restore the earlier ones"
            )


def _identities(vectors: ItemVectors) -> dict[str, str]:
    tables = {"fused": vectors.fused, "text": vectors.text, "image": vectors.image}
    return {name: table.identity for name, table in tables.items() if table is not None}


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a saved model depends on."""
    versions = {"python": platform.python_version()}
    for distribution in ("torch", "numpy", "pyarrow", "mmctr-pipeline"):
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            version = "not installed"
        versions[distribution.replace("-", "_")] = version
    return versions


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _require_plain(value: Any, where: str) -> None:
    """Raise `ModelFileError` if `weights_only=True` would refuse `value` on reading."""
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
