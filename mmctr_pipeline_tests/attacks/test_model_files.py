"""Malicious `.pt` files run no code and do not exhaust memory; errors name file or field."""

import dataclasses
import os
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.tensors import load_tensors, save_tensors
from mmctr_pipeline.fusion.attention.transform import AttentionTransform
from mmctr_pipeline.fusion.own import OwnTransform
from mmctr_pipeline.fusion.pca import PcaTransform
from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.registry.restore import build_module
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL


class Planted:
    """Creates the file `marker` when a loader that runs code unpickles it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


CONTENT = {"format": "mmctr_pipeline.model", "format_version": 1, **vars(MODEL_FILE)}


def write_zip(path: Path, planted: Planted) -> None:
    torch.save({**CONTENT, "run_key": planted}, path)


def write_sealed_zip(path: Path, planted: Planted) -> None:
    """Write a file with a valid checksum, which anyone can compute."""
    save_tensors(path, {**CONTENT, "run_key": planted})


def write_legacy(path: Path, planted: Planted) -> None:
    torch.save({**CONTENT, "x": planted}, path, _use_new_zipfile_serialization=False)


def write_raw_pickle(path: Path, planted: Planted) -> None:
    path.write_bytes(pickle.dumps({"format": "mmctr_pipeline.model", "x": planted}))


def write_zip_with_a_second_pickle(path: Path, planted: Planted) -> None:
    torch.save(CONTENT, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(planted))
        archive.writestr("../../outside.pkl", pickle.dumps(planted))


FORMS = [
    write_zip,
    write_sealed_zip,
    write_legacy,
    write_raw_pickle,
    write_zip_with_a_second_pickle,
]
READERS: dict[str, Callable[[Path], Any]] = {
    "model": ModelFile.load,
    "pca transform": PcaTransform.load,
    "attention transform": AttentionTransform.load,
    "own transform": OwnTransform.load,
    "tensors": load_tensors,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reader", READERS)
def test_no_planted_code_runs(
    form: Callable[[Path, Planted], None], reader: str, tmp_path: Path
) -> None:
    path, marker = tmp_path / "planted.pt", tmp_path / "ran"
    form(path, Planted(marker))
    with pytest.raises(DamagedFileError, match=r"planted\.pt") as caught:
        READERS[reader](path)
    # torch's own message advises to load without its safeguard.
    assert "weights_only" not in str(caught.value)
    assert not marker.exists()
    assert sorted(os.listdir(tmp_path)) == ["planted.pt"]


def test_the_function_that_would_run_is_named(tmp_path: Path) -> None:
    write_sealed_zip(tmp_path / "planted.pt", Planted(tmp_path / "ran"))
    with pytest.raises(DamagedFileError, match=r"plain values \(it names posix\.system\)"):
        load_tensors(tmp_path / "planted.pt")


@pytest.mark.parametrize("form", FORMS)
def test_no_planted_code_of_a_checkpoint_runs(
    form: Callable[[Path, Planted], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    form(checkpoints.path, Planted(tmp_path / "ran"))
    assert checkpoints.load(torch.device("cpu")) is None
    assert "training from the beginning" in caplog.messages[0]
    assert not (tmp_path / "ran").exists()


def test_the_planted_code_would_run_in_an_unsafe_loader(tmp_path: Path) -> None:
    """When an unsafe loader reads a file with a single pickle, it creates the marker."""
    for form in (write_zip, write_sealed_zip, write_legacy):
        marker = tmp_path / form.__name__
        form(tmp_path / "planted.pt", Planted(marker))
        torch.load(tmp_path / "planted.pt", weights_only=False)
        assert marker.exists()
    write_raw_pickle(tmp_path / "planted.pt", Planted(tmp_path / "raw"))
    pickle.loads((tmp_path / "planted.pt").read_bytes())
    assert (tmp_path / "raw").exists()


def test_a_storage_that_claims_more_than_its_record_is_refused(tmp_path: Path) -> None:
    """Reading such a storage would go beyond its record, into other memory of the process."""
    path, crafted_path = tmp_path / "intact.pt", tmp_path / "crafted.pt"
    torch.save({"w": torch.arange(4.0)}, path)
    with zipfile.ZipFile(path) as intact, zipfile.ZipFile(crafted_path, "w") as archive:
        for name in intact.namelist():
            content = intact.read(name)
            if name.endswith("data.pkl"):
                # One 4 is the number of elements of the storage, the other the size of the tensor.
                assert content.count(b"K\x04") == 2
                content = content.replace(b"K\x04", b"J\x00\x00\x00\x20")
            archive.writestr(name, content)
    with pytest.raises(DamagedFileError, match=r"crafted\.pt"):
        load_tensors(crafted_path)


@pytest.fixture(name="model_file", scope="module")
def built_model_file() -> ModelFile:
    spec = FeatureSpec(n_users=5, n_items=7, vector_dim=4)
    module = build_model(SMALL_MODEL, spec)
    return dataclasses.replace(
        MODEL_FILE,
        state_dict=dict(module.state_dict()),
        model_config=SMALL_MODEL.to_mapping(),
        spec=spec.to_mapping(),
    )


def write_crafted(model_file: ModelFile, path: Path, **changes: Any) -> Path:
    """Write a model file with changed entries; None removes an entry."""
    content = {"format": "mmctr_pipeline.model", "format_version": 1, **vars(model_file), **changes}
    save_tensors(path, {name: value for name, value in content.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": None}, "not a model saved by this pipeline"),
        ({"format": torch.zeros(3)}, "not a model saved by this pipeline"),
        ({"format_version": None}, "has model format None, this pipeline reads 1"),
        ({"format_version": "1"}, "has model format '1'"),
        ({"format_version": True}, "has model format True"),
        ({"format_version": torch.ones(2)}, "has model format tensor"),
        ({"format_version": 2, "library_versions": 5}, "has model format 2"),
        ({"format_version": 2, "library_versions": {"mmctr_pipeline": torch.ones(2)}}, "unknown"),
        ({"state_dict": None}, "lacks state_dict"),
        ({"state_dict": 5}, "state_dict is of type int, expected dict"),
        ({"state_dict": [torch.zeros(2)]}, "state_dict is of type list, expected dict"),
        ({"state_dict": {1: torch.zeros(2)}}, "a key of state_dict is of type int, expected str"),
        ({"state_dict": {"w": 0.5}}, r"state_dict\.w is of type float, expected Tensor"),
        ({"spec": None}, "lacks spec"),
        ({"spec": [1, 2]}, "spec is of type list, expected dict"),
        ({"model_config": "din"}, "model_config is of type str, expected dict"),
        ({"metrics": "good"}, "metrics is of type str, expected dict"),
        ({"metrics": {"valid_auc": "0.99"}}, r"metrics\.valid_auc is of type str, expected float"),
        ({"metrics": {"valid_auc": torch.ones(1)}}, r"metrics\.valid_auc is of type Tensor"),
        ({"baselines": {"rates": {"low": "1"}}}, r"rates\.low is of type str, expected float"),
        ({"n_parameters": 1.5}, "n_parameters is of type float, expected int"),
        ({"vector_identity": 7}, "vector_identity is of type int, expected str"),
        ({"encoder_identities": {"text": None}}, r"encoder_identities\.text is of type NoneType"),
        ({"resolved_config": []}, "resolved_config is of type list"),
        ({"preset": ["sample"]}, "preset is of type list, expected str"),
        ({"evaluation": 1}, "evaluation is of type int, expected dict"),
    ],
)
def test_a_crafted_field_is_named(
    model_file: ModelFile, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_crafted(model_file, tmp_path / "model.pt", **changes)
    with pytest.raises(DamagedFileError, match=rf"model\.pt.*{message}"):
        ModelFile.load(path)


def test_fields_of_later_versions_are_ignored(model_file: ModelFile, tmp_path: Path) -> None:
    path = write_crafted(model_file, tmp_path / "model.pt", from_a_later_version={"x": 1})
    module = build_module(ModelFile.load(path))
    assert module.state_dict().keys() == model_file.state_dict.keys()


@pytest.mark.parametrize(
    "spec",
    [
        {"n_users": 10**8},
        {"n_users": 10**12},
        {"n_items": 10**9},
        {"vector_dim": 10**8},
        {"n_users": 2**62},
        {"n_users": 2**70},
    ],
    ids=str,
)
def test_huge_sizes_are_refused_before_memory_is_taken(
    model_file: ModelFile, tmp_path: Path, spec: dict[str, int]
) -> None:
    huge = {**model_file.spec, **spec}
    loaded = ModelFile.load(write_crafted(model_file, tmp_path / "model.pt", spec=huge))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedFileError, match=r"the sizes in the file (need|are)"):
        build_module(loaded)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize(
    "config",
    [{"embedding_dim": 10**7}, {"hidden_dims": [10**6, 10**6]}, {"attention_dim": 10**9}],
    ids=str,
)
def test_huge_layers_are_refused(
    model_file: ModelFile, tmp_path: Path, config: dict[str, Any]
) -> None:
    huge = {**model_file.model_config, **config}
    loaded = ModelFile.load(write_crafted(model_file, tmp_path / "model.pt", model_config=huge))
    with pytest.raises((DamagedFileError, SettingsError)):
        build_module(loaded)


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("spec", {"n_users": "many"}),
        ("spec", {"n_users": -1}),
        ("spec", {"n_unknown": 1}),
        ("model_config", {"name": "no_such_model"}),
        ("model_config", {"dropout": 7}),
        ("model_config", {"hidden_dims": "abc"}),
        ("model_config", {"os.system": "true"}),
    ],
    ids=str,
)
def test_crafted_settings_are_named(
    model_file: ModelFile, tmp_path: Path, section: str, changes: dict[str, Any]
) -> None:
    values = {**getattr(model_file, section), **changes}
    loaded = ModelFile.load(write_crafted(model_file, tmp_path / "model.pt", **{section: values}))
    with pytest.raises(SettingsError, match=f"saved {section}"):
        build_module(loaded)


def first_matrix(weights: dict[str, torch.Tensor]) -> str:
    """Return the name of the first weight with two dimensions."""
    return next(name for name, tensor in weights.items() if tensor.ndim == 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.double(), r"is torch\.float64"),
        (lambda w: w.to(torch.int8), r"is torch\.int8"),
        (lambda w: w.to_sparse(), r"torch\.sparse_coo"),
        (lambda w: torch.empty(w.shape, device="meta"), "on meta"),
        (lambda w: w[:1], "do not fit the saved configuration"),
        (lambda w: torch.zeros(1).expand(10**9, 10**9), "do not fit the saved configuration"),
    ],
    ids=["float64", "int8", "sparse", "meta", "shape", "expanded"],
)
def test_crafted_weights_are_refused(
    model_file: ModelFile,
    tmp_path: Path,
    change: Callable[[torch.Tensor], torch.Tensor],
    message: str,
) -> None:
    name = first_matrix(model_file.state_dict)
    weights = {**model_file.state_dict, name: change(model_file.state_dict[name])}
    path = write_crafted(model_file, tmp_path / "model.pt", state_dict=weights)
    with pytest.raises(DamagedFileError, match=message):
        build_module(ModelFile.load(path))


def test_missing_and_unknown_weights_are_refused(model_file: ModelFile, tmp_path: Path) -> None:
    weights = dict(model_file.state_dict)
    weights["unknown.weight"] = weights.pop(first_matrix(weights))
    path = write_crafted(model_file, tmp_path / "model.pt", state_dict=weights)
    with pytest.raises(DamagedFileError, match="do not fit the saved configuration"):
        build_module(ModelFile.load(path))
