"""Repeat a training run as its model file records it, and compare the results."""

import dataclasses
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmctr_pipeline import pipeline
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.fingerprint import fingerprint_array
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.models.config import model_config_from
from mmctr_pipeline.recorded_vectors import recorded_data, recorded_vectors
from mmctr_pipeline.registry.conditions import (
    changed_conditions,
    library_versions,
    run_conditions,
)
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.registry.restore import warm_start_from
from mmctr_pipeline.registry.versions import LATEST, model_path
from mmctr_pipeline.submission.files import submission_frame, write_submission
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr
from mmctr_pipeline.training.warm_start import WarmStart

_SHOWN_VERSIONS = 10


class RepeatError(ValueError):
    """A recorded run cannot be repeated; the message says why."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A result of a recorded run and of its repetition, as hashes or names, and how they differ."""

    name: str
    recorded: str
    repeated: str
    difference: str = ""

    @property
    def is_equal(self) -> bool:
        """True if both are the same."""
        return self.recorded == self.repeated


@dataclasses.dataclass(frozen=True)
class Repetition:
    """All results of a repetition, and notes on why they may differ from the recorded run."""

    results: tuple[Result, ...]
    notes: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """True if every result is the same."""
        return all(result.is_equal for result in self.results)


def find_version(storage: Path, version: str | None) -> Path:
    """Return the model file of a version, given by name or path, or of the latest version for None.

    Raises `RepeatError` if there is no such version; the message names the newest versions.
    """
    latest = storage / LATEST
    named = storage / "models" / version if version else latest
    for path in (named, Path(version or latest)):
        file = path / "model.pt" if path.is_dir() else path
        if file.is_file():
            return file.resolve()
    newest = sorted(path.parent.name for path in (storage / "models").glob("*/model.pt"))
    known = ", ".join(newest[-_SHOWN_VERSIONS:]) or "none yet; materialise trained_model"
    what = f"version {version}" if version else "latest version"
    raise RepeatError(f"{storage / 'models'} has no {what}; it has: {known}")


def repeat_run(
    model_file: ModelFile,
    data: Path,
    storage: Path,
    device: torch.device,
    fresh: bool = False,
    threads: int | None = None,
) -> Repetition:
    """Encode, fuse, train and score as `model_file` records, and compare the results.

    Nothing in `storage` changes, except that missing vectors are added to the vector store. If an
    encoder or the transform differs from the recorded one, nothing is trained.

    Raises `RepeatError` for other data than those of the run, and for an unusable configuration.

    Parameters
    ----------
    model_file
        The recorded version.
    data
        Data folder of the recorded run.
    storage
        Storage folder, with the vector store and the fitted transforms.
    device
        Where to compute.
    fresh
        Encode everything again, into a temporary vector store.
    threads
        CPU threads; by default as many as recorded.
    """
    layout = find_data(data)
    dataset = pipeline.load_dataset(layout, recorded_data(model_file))
    if dataset.fingerprint != model_file.data_fingerprint:
        raise RepeatError(
            f"the data in {data} are not those of the recorded run: their fingerprint is "
            f"{dataset.fingerprint[:12]}, the recorded one {model_file.data_fingerprint[:12]}. Set "
            "MMCTR_DATA_DIR to the data of that run"
        )
    torch.set_num_threads(
        threads or model_file.conditions.get("threads") or torch.get_num_threads()
    )
    notes = _changes(model_file, device)
    with tempfile.TemporaryDirectory() as temporary:
        vector_store = (Path(temporary) if fresh else storage) / "vectors"
        transforms = Path(temporary) / "transforms"
        vectors = recorded_vectors(
            model_file, layout, dataset.items, vector_store, storage, transforms, device
        )
        results = _vector_results(model_file, vectors)
        if all(result.is_equal for result in results):
            trained = pipeline.train(
                dataset,
                vectors,
                model_config_from(model_file.model_config, "saved model_config"),
                TrainingConfig.from_mapping(model_file.training_config, "saved training_config"),
                device,
                warm_start=_warm_start(model_file, storage),
            )
            results += _contents(model_file, vectors)
            results += _training_results(model_file, trained, dataset, vectors, device)
        else:
            notes.append("not trained, as the vectors differ from those of the recorded run")
    return Repetition(tuple(results), tuple(notes))


def weights_digest(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 (hex) of names, types, shapes and bytes of weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def _changes(model_file: ModelFile, device: torch.device) -> list[str]:
    precision = model_file.training_config.get("precision", "float32")
    notes = changed_conditions(
        model_file.library_versions | model_file.conditions,
        library_versions() | run_conditions(device, precision),
    )
    if model_file.history.get("ended_by") == "max_minutes":
        notes.append("the recorded run hit its time limit, so the number of epochs may differ")
    if device.type == "cuda":
        notes.append("a GPU does not always add up in the same order: the last digits may differ")
    return notes


def _warm_start(model_file: ModelFile, storage: Path) -> WarmStart | None:
    """Return the weights that the recorded training began with; None if it began from scratch."""
    if not model_file.warm_start:
        return None
    path = model_path(storage, model_file.warm_start)
    if not path.is_file():
        raise RepeatError(
            f"the run began with the weights of version {model_file.warm_start}, which is no "
            f"longer in {path.parent.parent}"
        )
    return warm_start_from(ModelFile.load(path), model_file.warm_start)


def _vector_results(model_file: ModelFile, vectors: ItemVectors) -> list[Result]:
    tables: dict[str, VectorTable | None] = {"text": vectors.text, "image": vectors.image}
    results = [
        Result(f"{name} encoder", model_file.encoder_identities.get(name, "none"), table.identity)
        for name, table in tables.items()
        if table is not None
    ]
    return [*results, Result("transform", model_file.transform_identity, vectors.fused.identity)]


def _contents(model_file: ModelFile, vectors: ItemVectors) -> list[Result]:
    """Compare the content hashes of the vectors; old model files record none."""
    now = vectors.content_hashes()
    return [
        Result(f"{name} vectors", recorded, now.get(name, "none"))
        for name, recorded in model_file.vector_contents.items()
    ]


def _training_results(
    model_file: ModelFile,
    trained: TrainedCtr,
    dataset: CtrDataset,
    vectors: ItemVectors,
    device: torch.device,
) -> list[Result]:
    weights = trained.module.state_dict()
    results = [
        Result(
            "weights",
            weights_digest(model_file.state_dict),
            weights_digest(weights),
            _weight_difference(model_file.state_dict, weights),
        )
    ]
    if model_file.valid_scores:
        scores = fingerprint_array(trained.valid_scores)
        results.append(Result("scores of valid at selection", model_file.valid_scores, scores))
    submissions: dict[str, np.ndarray] = {}
    for name in ("valid", "test"):
        split = dataset.splits[name]
        recorded, repeated = (
            pipeline.score(model, dataset, split, vectors, device)
            for model in (model_file, trained)
        )
        results.append(
            Result(
                f"scores of {name}",
                fingerprint_array(recorded),
                fingerprint_array(repeated),
                f"by at most {np.abs(recorded - repeated).max(initial=0):.2g}",
            )
        )
        submissions = {"recorded": recorded, "repeated": repeated}
    assert dataset.test.row_id is not None
    digests = [_submission_digest(dataset.test.row_id, scores) for scores in submissions.values()]
    return [*results, Result("submission.csv and its zip", *digests)]


def _weight_difference(
    recorded: Mapping[str, torch.Tensor], repeated: Mapping[str, torch.Tensor]
) -> str:
    """Return how many tensors differ, and by how much."""
    shapes, repeated_shapes = (
        {name: tensor.shape for name, tensor in weights.items()} for weights in (recorded, repeated)
    )
    if shapes != repeated_shapes:
        return "the tensors have other names or shapes"
    pairs = [(recorded[name], tensor.detach().cpu()) for name, tensor in repeated.items()]
    gaps = [_largest_gap(*pair) for pair in pairs if not torch.equal(*pair)]
    return f"{len(gaps)} of {len(pairs)} tensors, by up to {max(gaps, default=0.0):.2g}"


def _largest_gap(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first.double() - second.double()).abs().max())


def _submission_digest(test_id: np.ndarray, probability: np.ndarray) -> str:
    """Return the SHA-256 (hex) of the submission that these scores give."""
    with tempfile.TemporaryDirectory() as folder:
        csv, zipped = Path(folder) / "submission.csv", Path(folder) / "prediction.zip"
        write_submission(submission_frame(test_id, probability), csv, zipped)
        return hashlib.sha256(csv.read_bytes() + zipped.read_bytes()).hexdigest()


def as_json(repetition: Repetition) -> dict[str, Any]:
    """Return plain dicts, lists and scalars."""
    results = [
        {**dataclasses.asdict(result), "equal": result.is_equal} for result in repetition.results
    ]
    return {"equal": repetition.is_equal, "results": results, "notes": list(repetition.notes)}
