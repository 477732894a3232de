"""The pipeline end to end through Dagster's command line, on real files."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.registry.card import popularity_table
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.submission.files import check_submission, read_submission
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import Deployment, run_id_of
from mmctr_pipeline_tests.defs.test_definitions import CHECKS


def _copy(deployment: Deployment, folder: Path) -> Deployment:
    """Return a deployment with a storage folder of its own, as the finished run left it."""
    shutil.copytree(deployment.storage, folder / "storage", symlinks=True)
    return dataclasses.replace(deployment, folder=folder)


def test_every_artefact_is_there_and_fits_the_others(finished_run: FinishedRun) -> None:
    storage = finished_run.deployment.storage
    dataset = CtrDataset.read(storage / "train_dataset")
    text = VectorTable.read(storage / "text_embeddings.parquet")
    image = VectorTable.read(storage / "image_embeddings.parquet")
    fused = VectorTable.read(storage / "fused_pca.parquet")
    model = ModelFile.load(storage / "best_model.pt")
    assert text.dim == 384
    assert np.array_equal(text.item_id, dataset.items.item_id)
    assert np.array_equal(image.item_id, dataset.items.item_id)
    assert np.array_equal(fused.item_id, np.concatenate([[0], dataset.items.item_id]))
    assert model.vector_identity == fused.identity
    assert model.data_fingerprint == dataset.fingerprint
    assert model.encoder_identities == {"text": text.identity, "image": image.identity}
    assert len(list((storage / "transforms").glob("*.pt"))) == 1


def test_missing_and_unreadable_images_are_masked_and_listed(finished_run: FinishedRun) -> None:
    storage = finished_run.deployment.storage
    image = VectorTable.read(storage / "image_embeddings.parquet")
    problems = pq.read_table(storage / "image_problems.parquet")
    assert 0 < problems.num_rows < 0.2 * len(image.item_id)
    assert problems.column("item_id").to_pylist() == image.item_id[~image.present].tolist()


def test_submission_has_one_probability_per_test_row(finished_run: FinishedRun) -> None:
    storage = finished_run.deployment.storage
    test_id = pq.read_table(
        finished_run.deployment.data / "MicroLens_1M_x1" / "test.parquet", columns=["ID"]
    ).column("ID")
    problems = check_submission(
        storage / "submission.csv", storage / "prediction.zip", test_id.to_numpy()
    )
    assert problems == []
    assert read_submission(storage / "submission.csv")["Task1&2"].std() > 0.01


def test_all_checks_ran_and_passed(finished_run: FinishedRun) -> None:
    results = finished_run.deployment.check_results(finished_run.summary["run_id"])
    expected = {f"{asset}.{name}" for asset, names in CHECKS.items() for name in names}
    assert results == dict.fromkeys(expected, True)


def test_summary_says_what_came_out(finished_run: FinishedRun) -> None:
    summary, storage = finished_run.summary, finished_run.deployment.storage
    model = ModelFile.load(storage / "best_model.pt")
    assert summary["valid_auc"] == model.metrics["valid_auc"]
    assert summary["valid_auc_low"] < summary["valid_auc"] < summary["valid_auc_high"]
    assert 0.8 < summary["best_possible_auc"] < 0.92
    assert summary["submission_path"] == str(storage / "submission.csv")
    assert summary["n_train_rows"] == 6000
    assert summary["device"] == "cpu"
    assert summary["preset"] == str(finished_run.deployment.folder / "preset.yaml")
    assert set(CHECKS) <= set(summary["seconds"])
    assert summary["checks_failed"] == []
    for words in (f"{summary['valid_auc']:.4f}", "best possible AUC", "make ui"):
        assert words in finished_run.log


def test_the_evaluation_is_shown_beside_the_model(finished_run: FinishedRun) -> None:
    model = ModelFile.load(finished_run.deployment.storage / "best_model.pt")
    with dg.DagsterInstance.from_config(str(finished_run.deployment.home)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("trained_model"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["AUC by popularity"].value == popularity_table(model.evaluation)
    assert str(metadata["reliability"].value).startswith("![share of clicks by probability]")
    assert metadata["valid_calibration_error"].value == model.evaluation["calibration"]["error"]
    assert "final fit" not in metadata


def test_sources_were_observed(finished_run: FinishedRun) -> None:
    with dg.DagsterInstance.from_config(str(finished_run.deployment.home)) as instance:
        for name in ("item_feature", "item_images", "interactions"):
            assert instance.get_latest_data_version_record(dg.AssetKey(name)) is not None


def test_the_run_config_that_was_used_is_kept(finished_run: FinishedRun) -> None:
    path = finished_run.deployment.storage / "run_config.yaml"
    assert str(path) in finished_run.log
    config = yaml.safe_load(path.read_text())
    assert config["ops"]["trained_model"]["config"]["training"]["max_epochs"] == 2


def test_progress_and_configuration_are_shown(finished_run: FinishedRun) -> None:
    assert "epoch 1 of 2" in finished_run.log
    model = ModelFile.load(finished_run.deployment.storage / "best_model.pt")
    assert model.resolved_config["training"]["batch_size"] == 256
    assert model.resolved_config["model"]["name"] == "improved_mmctr"
    assert model.resolved_config["text_embeddings"]["encoder"]["batch_tokens"] == 512
    assert model.resolved_config["fused_pca"]["fusion"]["method"] == "pca"


def test_training_alone_reuses_the_vectors_and_overrides_by_config(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = _copy(finished_run.deployment, tmp_path)
    before = {
        path.name: path.stat().st_mtime_ns
        for path in deployment.storage.glob("*_embeddings.parquet")
    }
    config = tmp_path / "override.yaml"
    training = {"max_epochs": 1, "seed": 5, "final_fit": True}
    config.write_text(
        yaml.safe_dump({"ops": {"trained_model": {"config": {"training": training}}}})
    )
    result = deployment.materialize("trained_model,submission_csv", "-c", str(config))
    assert result.returncode == 0, result.stdout[-6000:]
    model = ModelFile.load(deployment.storage / "best_model.pt")
    assert (model.training_config["max_epochs"], model.training_config["seed"]) == (1, 5)
    dataset = CtrDataset.read(deployment.storage / "train_dataset")
    assert model.final_fit is not None
    assert model.final_fit["n_rows"] == len(dataset.train) + len(dataset.valid)
    assert "(of the selection run, before the final fit" in result.stdout
    # What the override leaves out keeps the preset's value.
    assert model.training_config["batch_size"] == 256
    assert before == {
        path.name: path.stat().st_mtime_ns
        for path in deployment.storage.glob("*_embeddings.parquet")
    }


def test_below_the_floor_nothing_is_submitted_not_even_alone(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = _copy(finished_run.deployment, tmp_path)
    submission = deployment.storage / "submission.csv"
    earlier = submission.read_bytes()
    submission.write_bytes(earlier + b"\n")  # told apart from a newly written one
    config = tmp_path / "floor.yaml"
    trained = {"training": {"max_epochs": 1}, "checks": {"auc_floor": 0.9999}}
    config.write_text(yaml.safe_dump({"ops": {"trained_model": {"config": trained}}}))

    together = deployment.materialize("trained_model,submission_csv", "-c", str(config))
    assert together.returncode != 0
    assert deployment.check_results(run_id_of(together.stdout)) == {
        "trained_model.auc_floor": False
    }

    alone = deployment.materialize("submission_csv")
    assert alone.returncode != 0
    assert "BelowAucFloorError" in alone.stdout
    assert submission.read_bytes() == earlier + b"\n"


def test_missing_artefact_names_what_to_materialise(small_sample: Path, tmp_path: Path) -> None:
    deployment = Deployment(small_sample, tmp_path)
    result = deployment.materialize("submission_csv", MMCTR_EXECUTOR="in_process")
    assert result.returncode != 0
    assert re.search(r"does not exist: materialise \w+ first", result.stdout)


def test_kill_in_the_middle_of_training_leaves_the_earlier_model(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = _copy(finished_run.deployment, tmp_path)
    earlier = os.readlink(deployment.storage / "best_model.pt")
    config = tmp_path / "long.yaml"
    training = {"max_epochs": 500, "patience": 500}
    config.write_text(
        yaml.safe_dump({"ops": {"trained_model": {"config": {"training": training}}}})
    )
    process = subprocess.Popen(
        deployment.command("trained_model", "-c", str(config)),
        env=deployment.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        deadline = time.monotonic() + 120
        for line in process.stdout:
            if "epoch 2 of 500" in line:
                break
            assert time.monotonic() < deadline, "training did not begin"
        else:
            pytest.fail("the run ended before it could be killed")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert os.readlink(deployment.storage / "best_model.pt") == earlier
    assert ModelFile.load(deployment.storage / "best_model.pt").training_config["max_epochs"] == 2
