"""`make run`: the artefacts, the printed lines and the summary."""

import re

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.registry.card import epochs_table, popularity_table
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.submission.files import check_submission, read_submission
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.test_definitions import CHECKS, SOURCES


def test_artefacts_exist_and_match_each_other(finished_run: FinishedRun) -> None:
    storage = finished_run.deployment.storage
    dataset = CtrDataset.read(storage / "train_dataset")
    text = VectorTable.read(storage / "text_embeddings.parquet")
    image = VectorTable.read(storage / "image_embeddings.parquet")
    fused = VectorTable.read(storage / "fused_pca.parquet")
    model = ModelFile.load(storage / "latest_model.pt")
    assert text.dim == 384
    assert np.array_equal(text.item_id, dataset.items.item_id)
    assert np.array_equal(image.item_id, dataset.items.item_id)
    assert np.array_equal(fused.item_id, np.concatenate([[0], dataset.items.item_id]))
    assert model.vector_identity == fused.identity
    assert model.data_fingerprint == dataset.fingerprint
    assert model.encoder_identities == {"text": text.identity, "image": image.identity}
    assert len(list((storage / "transforms").glob("*.pt"))) == 1


def test_items_without_a_readable_image_have_no_vector_and_are_listed(
    finished_run: FinishedRun,
) -> None:
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
    assert finished_run.summary["checks_passed"] == len(expected)


def test_summary_reports_the_result(finished_run: FinishedRun) -> None:
    summary, storage = finished_run.summary, finished_run.deployment.storage
    model = ModelFile.load(storage / "latest_model.pt")
    assert summary["valid_auc"] == model.metrics["valid_auc"]
    assert summary["valid_auc_low"] < summary["valid_auc"] < summary["valid_auc_high"]
    assert 0.8 < summary["best_possible_auc"] < 0.92
    for name in ("baseline_popularity_auc", "baseline_rates_auc", "baseline_cosine_auc"):
        assert 0.5 < summary[name] == model.metrics[name] < summary["valid_auc"]
    assert summary["submission_path"] == str(storage / "submission.csv")
    report = (storage / "latest_report.html").resolve()
    assert report.parent == (storage / "latest_model.pt").resolve().parent
    assert re.search(rf"^report +{re.escape(str(report))}$", finished_run.log, re.MULTILINE)
    assert summary["n_train_rows"] == 6000
    assert summary["device"] == "cpu"
    assert summary["preset"] == str(finished_run.deployment.folder / "preset.yaml")
    assert {*CHECKS} - {*SOURCES} <= set(summary["seconds"])
    assert summary["checks_warned"] == summary["checks_failed"] == []
    assert summary["promoted"] is True
    assert summary["champion"] == (storage / "latest_model.pt").resolve().parent.name
    for words in (f"{summary['valid_auc']:.4f}", "best possible AUC", "make ui"):
        assert words in finished_run.log


def test_metadata_shows_the_evaluation_and_the_paths(finished_run: FinishedRun) -> None:
    storage = finished_run.deployment.storage
    model = ModelFile.load(storage / "latest_model.pt")
    with dg.DagsterInstance.from_config(str(finished_run.deployment.home)) as instance:
        events = {
            name: instance.get_latest_materialization_event(dg.AssetKey(name)) for name in CHECKS
        }
    metadata = {
        name: event.asset_materialization.metadata
        for name, event in events.items()
        if event is not None and event.asset_materialization is not None
    }
    shown = metadata["trained_model"]
    assert shown["AUC by popularity"].value == popularity_table(model.evaluation)
    assert str(shown["reliability"].value).startswith("![share of clicks by probability]")
    error = model.evaluation["calibration"]["error"]
    assert shown["valid calibration error"].value == pytest.approx(error, rel=1e-4)
    assert "final fit" not in shown
    best = next(e for e in model.history["epochs"] if e["epoch"] == model.history["best_epoch"])
    for name in ("train_loss", "learning_rate", "gradient_norm", "largest_gradient_norm"):
        assert shown[name.replace("_", " ")].value == pytest.approx(best[name], rel=1e-4)
    assert shown["epochs"].value == epochs_table(model.history)
    assert str(shown["gradients"].value).startswith("![gradient norm and learning rate by epoch]")
    titles = {name: each.value for name, each in metadata["text_embeddings"].items()}
    assert 0.9 < titles["share of items with a vector"] <= 1
    speed = titles["encoded"] / titles["seconds"]
    assert titles["encoded per second"] == pytest.approx(speed, rel=1e-3)
    paths = {name: values["path"].value for name, values in metadata.items()}
    assert paths == {
        "text_embeddings": str(storage / "text_embeddings.parquet"),
        "image_embeddings": str(storage / "image_embeddings.parquet"),
        "fused_pca": str(storage / "fused_pca.parquet"),
        "train_dataset": str(storage / "train_dataset"),
        "trained_model": str((storage / "latest_model.pt").resolve()),
        "champion": str(storage / "champion.json"),
        "submission_csv": str(storage / "submission.csv"),
    }
    scores = read_submission(storage / "submission.csv")["Task1&2"]
    shown = metadata["submission_csv"]
    assert shown["zip"].value == str(storage / "prediction.zip")
    found = [shown[name].value for name in ("minimum", "maximum", "mean")]
    assert found == pytest.approx([scores.min(), scores.max(), scores.mean()], rel=1e-4)


def test_sources_were_observed(finished_run: FinishedRun) -> None:
    with dg.DagsterInstance.from_config(str(finished_run.deployment.home)) as instance:
        for name in SOURCES:
            assert instance.get_latest_data_version_record(dg.AssetKey(name)) is not None


def test_the_run_config_is_saved_in_a_file_and_in_the_model(finished_run: FinishedRun) -> None:
    path = finished_run.deployment.storage / "run_config.yaml"
    assert str(path) in finished_run.log
    config = yaml.safe_load(path.read_text())
    assert config["ops"]["trained_model"]["config"]["training"]["max_epochs"] == 2
    model = ModelFile.load(finished_run.deployment.storage / "latest_model.pt")
    assert model.resolved_config["training"]["batch_size"] == 256
    assert model.resolved_config["model"]["name"] == "improved_mmctr"
    assert model.resolved_config["text_embeddings"]["encoder"]["batch_tokens"] == 512
    assert model.resolved_config["fused_pca"]["fusion"]["method"] == "pca_each"


def test_events_and_log_lines_of_the_core_are_printed_once_and_recorded(
    finished_run: FinishedRun,
) -> None:
    time_and_step = r"^\d\d:\d\d:\d\d  "
    for line in (
        r"trained_model +started$",
        r"trained_model +finished in \d+\.\d s$",
        r"text_embeddings_checks +check shape of text_embeddings passed: ",
        r"train_dataset +data set in ",
        r"text_embeddings +text encoder .* on cpu",
        r"trained_model +epoch 1 of 2: train loss",
        r"trained_model +epoch 2 of 2: train loss",
    ):
        assert len(re.findall(time_and_step + line, finished_run.log, re.MULTILINE)) == 1, line
    assert finished_run.log.count("data set in ") == 1
    assert "STEP_" not in finished_run.log
    assert "Loading weights" not in finished_run.log
    entries = finished_run.deployment.records(finished_run.summary["run_id"])
    recorded = {(entry.step_key, entry.user_message) for entry in entries}
    assert any(step == "trained_model" and "epoch 2 of 2" in text for step, text in recorded)
