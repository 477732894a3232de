"""Saved models are read back unchanged; damaged, foreign and mismatched files are refused."""

import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.registry.card import model_card
from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError, require_identity
from mmctr_pipeline.registry.restore import build_module
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline.training.trainer import FinalFit
from mmctr_pipeline_tests.registry.model_files import small_model_file
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL, small_sample

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vectors() -> ItemVectors:
    return small_sample(n_train=500)[1]


@pytest.fixture(name="trained", scope="module")
def trained_quickly(vectors: ItemVectors) -> TrainedCtr:
    dataset, _ = small_sample(n_train=500)
    return train_ctr(dataset, vectors, SMALL_MODEL, QUICK_TRAINING, CPU)


@pytest.fixture(name="model_file", scope="module")
def trained_model_file(trained: TrainedCtr, vectors: ItemVectors) -> ModelFile:
    return small_model_file(trained, vectors)


@pytest.fixture(name="saved")
def saved_file(model_file: ModelFile, tmp_path: Path) -> Path:
    model_file.save(tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_a_loaded_model_has_the_trained_weights_and_is_in_evaluation_mode(
    trained: TrainedCtr, saved: Path
) -> None:
    module = build_module(ModelFile.load(saved))
    assert not module.training
    loaded, expected = module.state_dict(), trained.module.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_everything_is_read_back(trained: TrainedCtr, model_file: ModelFile, saved: Path) -> None:
    loaded = ModelFile.load(saved)
    assert loaded.description() == model_file.description()
    assert set(loaded.state_dict) == set(model_file.state_dict)
    assert loaded.n_parameters == sum(p.numel() for p in trained.module.parameters())
    assert loaded.metrics["valid_auc_low"] < loaded.metrics["valid_auc"]
    assert set(loaded.library_versions) == {"python", "torch", "numpy", "pyarrow", "mmctr_pipeline"}
    assert loaded.library_versions["torch"] == torch.__version__.split("+")[0]


def test_the_evaluation_is_read_back_and_agrees_with_the_metrics(
    trained: TrainedCtr, saved: Path
) -> None:
    loaded = ModelFile.load(saved)
    assert loaded.evaluation == trained.evaluation.to_mapping()
    assert loaded.metrics["valid_auc"] == loaded.evaluation["auc"]["auc"]
    assert loaded.metrics["valid_calibration_error"] == loaded.evaluation["calibration"]["error"]
    assert loaded.metrics["valid_auc_by_user"] == loaded.evaluation["by_user"]["auc"]
    # The small sample has no cold item, so the AUC of cold items is absent, not zero.
    assert loaded.evaluation["by_popularity"][0]["n_rows"] == 0
    assert "valid_auc_cold" not in loaded.metrics
    assert (loaded.final_fit, loaded.measured_run) == (None, "")


def test_a_final_fit_is_recorded_as_such(
    trained: TrainedCtr, vectors: ItemVectors, tmp_path: Path
) -> None:
    final = dataclasses.replace(trained, final_fit=FinalFit(1.5, 2000, 0.55, 3.25))
    small_model_file(final, vectors).save(tmp_path / "model.pt")
    loaded = ModelFile.load(tmp_path / "model.pt")
    assert loaded.final_fit == {
        "n_epochs": 1.5,
        "n_rows": 2000,
        "train_loss": 0.55,
        "seconds": 3.25,
    }
    assert loaded.measured_run.startswith("the selection run, before the final fit")
    assert loaded.metrics == trained.metrics


def test_an_old_file_may_lack_evaluation_and_final_fit_but_not_metrics(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    del content["evaluation"], content["final_fit"]
    torch.save(content, saved)
    loaded = ModelFile.load(saved)
    assert (loaded.evaluation, loaded.final_fit) == ({}, None)
    assert "# improved_mmctr, version 1" in model_card(loaded, "1")
    del content["metrics"]
    torch.save(content, saved)
    with pytest.raises(DamagedFileError, match=r"model\.pt lacks metrics"):
        ModelFile.load(saved)


def test_building_a_module_leaves_the_random_state_unchanged(saved: Path) -> None:
    model_file = ModelFile.load(saved)
    before = torch.get_rng_state()
    build_module(model_file)
    assert torch.equal(torch.get_rng_state(), before)


def test_vectors_of_another_identity_are_refused(
    model_file: ModelFile, vectors: ItemVectors
) -> None:
    require_identity(model_file, vectors)
    trained_on = vectors.fused.identity
    other = dataclasses.replace(vectors.fused, identity="other vectors")
    with pytest.raises(
        ModelFileError, match=f"fused vectors '{trained_on}', but these are 'other "
    ):
        require_identity(model_file, ItemVectors(other))

    encoded = dataclasses.replace(model_file, encoder_identities={"text": trained_on})
    require_identity(encoded, ItemVectors(vectors.fused, text=vectors.fused))
    with pytest.raises(ModelFileError, match=f"text vectors '{trained_on}', but these are 'other "):
        require_identity(encoded, ItemVectors(vectors.fused, text=other))
    with pytest.raises(ModelFileError, match="trained on image vectors None"):
        require_identity(encoded, ItemVectors(vectors.fused, image=vectors.fused))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved: Path, share: float) -> None:
    os.truncate(saved, int(saved.stat().st_size * share))
    with pytest.raises(DamagedFileError, match=r"model\.pt .* cannot be read: it is damaged"):
        ModelFile.load(saved)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.pt"
    text.write_text("not a model")
    with pytest.raises(DamagedFileError, match="not a file of tensors"):
        ModelFile.load(text)
    plain_pickle = tmp_path / "pickle.pt"
    plain_pickle.write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(DamagedFileError, match=r"pickle\.pt .* cannot be read"):
        ModelFile.load(plain_pickle)
    pickled_module = tmp_path / "module.pt"
    torch.save(torch.nn.Linear(1, 1), pickled_module)
    with pytest.raises(DamagedFileError, match="objects other than tensors"):
        ModelFile.load(pickled_module)
    weights = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(2)}, weights)
    with pytest.raises(ModelFileError, match="not a model saved by this pipeline"):
        ModelFile.load(weights)


def test_a_file_of_a_newer_format_names_the_version_to_use(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    torch.save({**content, "format_version": 99}, saved)
    with pytest.raises(
        ModelFileError, match=r"model format 99, this pipeline reads 1; use .* 0\.1"
    ):
        ModelFile.load(saved)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train a model first"):
        ModelFile.load(tmp_path / "model.pt")


def test_loading_runs_no_code(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "planted.pt"
    torch.save({"format": "mmctr_pipeline.model", "planted": Planted()}, path)
    with pytest.raises(DamagedFileError):
        ModelFile.load(path)
    assert not (tmp_path / "ran").exists()


def test_values_that_could_not_be_read_back_are_refused_at_writing(
    model_file: ModelFile, tmp_path: Path
) -> None:
    broken = dataclasses.replace(model_file, metrics={"valid_auc": np.float64(0.5)})
    with pytest.raises(ModelFileError, match=r"model\.metrics\.valid_auc is a float64"):
        broken.save(tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


def test_weights_of_another_size_and_unknown_models_are_refused(model_file: ModelFile) -> None:
    resized = dataclasses.replace(model_file, spec={**model_file.spec, "n_users": 9})
    with pytest.raises(ModelFileError, match="weights do not fit the saved configuration"):
        build_module(resized)
    unknown = dataclasses.replace(model_file, model_config={"name": "no_such_model"})
    with pytest.raises(SettingsError, match="saved model_config: unknown model 'no_such_model'"):
        build_module(unknown)
