"""The saved model: weights, and everything needed to score with them and to trust them."""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from mmctr_pipeline.data.fingerprint import fingerprint_array
from mmctr_pipeline.data.ids import ids_to_arrays
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.fields import require_fields
from mmctr_pipeline.files.tensors import load_tensors, save_tensors
from mmctr_pipeline.registry.conditions import library_versions, run_conditions
from mmctr_pipeline.training.ctr import TrainedCtr

_FORMAT = "mmctr_pipeline.model"
_FORMAT_VERSION = 1
_TENSORS = ("state_dict", "id_maps", "valid_probabilities")
"""Fields that hold tensors."""


class ModelFileError(DamagedFileError):
    """A file is not a model of this pipeline, or does not match the data it is used with."""


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A trained model as stored on disk; every value is a tensor, a scalar, a dict or a list.

    `metrics` holds the validation AUC with its interval (see `TrainedCtr`), `evaluation` the other
    measurements on the valid rows (`MetricsReport.to_mapping`), `baselines` a `BaselineDifference`
    by name, `absent_baselines` why the others are undefined, and `history` one record per epoch.
    `evaluation`, `baselines` and `absent_baselines` are empty in old files. `likely_causes`
    explains an AUC that is no better than chance. If there is a `final_fit` (`FinalFit`), the
    weights were trained on the valid rows too. The measurements above are then those of the
    selection run, and scoring the valid rows with these weights would validate nothing.

    `vector_identity` names the fused vectors that the model was trained on, `encoder_identities`
    the encoders of the text and image vectors behind them, `transform_identity` the fitted fusion.
    `data_name` is the name of the data set if it is a known one, else empty. `n_parameters` counts
    the trained weights without buffers. `resolved_config` is the whole configuration of the run by
    section, `run_key` a hash of everything that decides the result (see `training.checkpoint`),
    `created_at` a UTC time in ISO 8601. `id_maps` has, by column, the id of each row of the model's
    tables (`ids_to_arrays`). It leaves out columns whose ids are themselves the row numbers.
    `calibration` is the map that logits pass (`CalibrationMap.to_mapping`), or None if the model is
    not calibrated.

    Three fields serve to repeat the run and are empty in old files: `conditions` has the conditions
    of `registry.conditions`, `vector_contents` the content hash of each vector table, and
    `valid_scores` the hash of the scores of the valid rows.

    `valid_probabilities` are these scores, `(N,) float32`, in the order of the dataset's valid
    rows, so that the model can be compared with another on the same rows, also after a final fit.
    If the data are logs by day, `data_day` is the last day of the data, as YYYY-MM-DD, and
    `last_train_day` the last one of the rows that the weights were trained on.
    `warm_start` is the version whose weights the training began with, or empty.
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
    resolved_config: dict[str, Any]
    run_key: str
    library_versions: dict[str, str]
    created_at: str
    preset: str | None = None
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
    final_fit: dict[str, Any] | None = None
    conditions: dict[str, Any] = dataclasses.field(default_factory=dict)
    vector_contents: dict[str, str] = dataclasses.field(default_factory=dict)
    valid_scores: str = ""
    likely_causes: list[str] = dataclasses.field(default_factory=list)
    data_name: str = ""
    baselines: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    absent_baselines: dict[str, str] = dataclasses.field(default_factory=dict)
    id_maps: dict[str, dict[str, torch.Tensor]] = dataclasses.field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    valid_probabilities: torch.Tensor | None = None
    data_day: str = ""
    last_train_day: str = ""
    warm_start: str = ""

    @classmethod
    def from_trained(
        cls,
        trained: TrainedCtr,
        vectors: ItemVectors,
        *,
        data_fingerprint: str,
        resolved_config: Mapping[str, Any],
        run_key: str,
        preset: str | None = None,
        data_name: str = "",
        data_day: str = "",
        last_train_day: str = "",
    ) -> Self:
        """Combine the result of training with the identities of its inputs.

        Parameters
        ----------
        trained
            Result of training.
        vectors
            The vectors that the model was trained on.
        data_fingerprint
            Content hash of the dataset that the model was trained on.
        resolved_config
            The whole configuration of the run by section.
        run_key
            Hash of everything that decides the result.
        preset
            Name or path of the preset.
        data_name
            Name of the data set, if it is known.
        data_day, last_train_day
            Last day of the data, and of their train rows, if they are logs by day.
        """
        identities = vectors.identities
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
            resolved_config=dict(resolved_config),
            run_key=run_key,
            library_versions=library_versions(),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            preset=preset,
            data_name=data_name,
            baselines=trained.baselines.to_mapping(),
            absent_baselines=dict(trained.baselines.absent),
            evaluation=trained.evaluation.to_mapping(),
            final_fit=dataclasses.asdict(trained.final_fit) if trained.final_fit else None,
            conditions=run_conditions(
                next(trained.module.parameters()).device, trained.training_config.precision
            ),
            vector_contents=vectors.content_hashes(),
            valid_scores=fingerprint_array(trained.valid_scores),
            likely_causes=list(trained.likely_causes),
            id_maps={name: _tensors(id_map.ids) for name, id_map in trained.id_maps.items()},
            calibration=trained.calibration.to_mapping() if trained.calibration else None,
            valid_probabilities=torch.from_numpy(trained.valid_scores.astype(np.float32)),
            data_day=data_day,
            last_train_day=data_day if trained.final_fit else last_train_day,
            warm_start=trained.warm_start,
        )

    @property
    def measured_run(self) -> str:
        """The run that the metrics describe, or empty if it is the run that gave the weights."""
        if self.final_fit is None:
            return ""
        return "the selection run, before the final fit on train and valid rows"

    def description(self) -> dict[str, Any]:
        """Return everything except weights, ids and scores, as JSON values."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in _TENSORS
        }

    def save(self, path: Path) -> None:
        """Write to `path`; for atomic writes see `registry.versions`.

        Raises `ModelFileError` if a value could not be read back with `weights_only=True`.
        """
        tensors = {name: getattr(self, name) for name in _TENSORS}
        content = {**tensors, **self.description()}
        _require_plain(content, "model")
        save_tensors(path, {"format": _FORMAT, "format_version": _FORMAT_VERSION, **content})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Self:
        """Read a file written by `save`, with the weights on `device`.

        Only tensors and plain values are read, never code. Raises `FileNotFoundError` if there is
        no such file, `ModelFileError` for another kind of file or another format version, and
        `DamagedFileError` if the file is incomplete or has a field of a wrong type.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: train a model first (trained_model)")
        content = load_tensors(path, device)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ModelFileError(f"{path} is a torch file, but not a model saved by this pipeline")
        version, libraries = content.get("format_version"), content.get("library_versions")
        if type(version) is not int or version != _FORMAT_VERSION:
            wrote = libraries.get("mmctr_pipeline") if isinstance(libraries, dict) else None
            wrote = wrote if isinstance(wrote, str) else "unknown"
            raise ModelFileError(
                f"{path} has model format {version!r:.80}, this pipeline reads "
                f"{_FORMAT_VERSION}; use the pipeline version that wrote it: {wrote:.80}"
            )
        require_fields(cls, content, path)
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: content[name] for name in names if name in content})


def _tensors(ids: np.ndarray) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in ids_to_arrays(ids).items()}


def has_identity(model_file: ModelFile, vectors: ItemVectors) -> bool:
    """Tell whether `vectors` are those that the model was trained on."""
    return not _other_vectors(model_file, vectors)


def require_identity(model_file: ModelFile, vectors: ItemVectors) -> None:
    """Raise `ModelFileError` unless `vectors` are those that the model was trained on."""
    for name, recorded, found in _other_vectors(model_file, vectors):
        raise ModelFileError(
            f"the model was trained on {name} vectors {recorded!r}, but these are {found!r}: its "
            "scores would mean nothing; materialise trained_model on these vectors, or restore "
            "the earlier ones"
        )


def _other_vectors(
    model_file: ModelFile, vectors: ItemVectors
) -> list[tuple[str, str | None, str]]:
    """Return name, recorded and found identity of the tables that the model was not trained on."""
    recorded = {"fused": model_file.vector_identity, **model_file.encoder_identities}
    return [
        (name, recorded.get(name), identity)
        for name, identity in vectors.identities.items()
        if identity != recorded.get(name)
    ]


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
