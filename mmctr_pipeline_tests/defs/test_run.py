"""`make run`: the artefacts, the printed lines, the summary, and a clean end when interrupted."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs import run
from mmctr_pipeline.defs.config import current_deployment, deployment_preset
from mmctr_pipeline.defs.launches import report_dead_launches
from mmctr_pipeline.registry.card import epochs_table, popularity_table
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.submission.files import check_submission, read_submission
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import PRESET, RUN_COMMAND, Deployment
from mmctr_pipeline_tests.defs.test_definitions import CHECKS


def test_artefacts_exist_and_match_each_other(finished_run: FinishedRun) -> None:
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
    assert finished_run.summary["checks_passed"] == len(expected)


def test_summary_reports_the_result(finished_run: FinishedRun) -> None:
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


def test_metadata_shows_the_evaluation_and_the_paths(finished_run: FinishedRun) -> None:
    storage = finished_run.deployment.storage
    model = ModelFile.load(storage / "best_model.pt")
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
    assert shown["valid_calibration_error"].value == model.evaluation["calibration"]["error"]
    assert "final fit" not in shown
    best = next(e for e in model.history["epochs"] if e["epoch"] == model.history["best_epoch"])
    for name in ("train_loss", "learning_rate", "gradient_norm", "largest_gradient_norm"):
        assert shown[name].value == best[name]
    assert shown["epochs"].value == epochs_table(model.history)
    assert str(shown["gradients"].value).startswith("![gradient norm and learning rate by epoch]")
    paths = {name: values["path"].value for name, values in metadata.items()}
    assert paths == {
        "text_embeddings": str(storage / "text_embeddings.parquet"),
        "image_embeddings": str(storage / "image_embeddings.parquet"),
        "fused_pca": str(storage / "fused_pca.parquet"),
        "train_dataset": str(storage / "train_dataset"),
        "trained_model": str((storage / "best_model.pt").resolve()),
        "submission_csv": str(storage / "submission.csv"),
    }
    scores = read_submission(storage / "submission.csv")["Task1&2"]
    shown = metadata["submission_csv"]
    assert shown["zip"].value == str(storage / "prediction.zip")
    assert (shown["minimum"].value, shown["maximum"].value) == (scores.min(), scores.max())
    assert shown["mean"].value == pytest.approx(scores.mean())


def test_sources_were_observed(finished_run: FinishedRun) -> None:
    with dg.DagsterInstance.from_config(str(finished_run.deployment.home)) as instance:
        for name in ("item_feature", "item_images", "interactions"):
            assert instance.get_latest_data_version_record(dg.AssetKey(name)) is not None


def test_the_run_config_is_kept(finished_run: FinishedRun) -> None:
    path = finished_run.deployment.storage / "run_config.yaml"
    assert str(path) in finished_run.log
    config = yaml.safe_load(path.read_text())
    assert config["ops"]["trained_model"]["config"]["training"]["max_epochs"] == 2
    model = ModelFile.load(finished_run.deployment.storage / "best_model.pt")
    assert model.resolved_config["training"]["batch_size"] == 256
    assert model.resolved_config["model"]["name"] == "improved_mmctr"
    assert model.resolved_config["text_embeddings"]["encoder"]["batch_tokens"] == 512
    assert model.resolved_config["fused_pca"]["fusion"]["method"] == "pca"


def test_steps_checks_and_log_lines_of_the_core_are_printed_and_recorded(
    finished_run: FinishedRun,
) -> None:
    time_and_step = r"^\d\d:\d\d:\d\d  "
    for line in (
        r'trained_model +Started execution of step "trained_model"\.',
        r'trained_model +Finished execution of step "trained_model" in .*s\.',
        r"text_embeddings_checks +Asset check 'shape' on 'text_embeddings' passed\.",
        r"text_embeddings +text encoder .* on cpu",
        r"trained_model +epoch 1 of 2: train loss",
        r"trained_model +epoch 2 of 2: train loss",
    ):
        assert len(re.findall(time_and_step + line, finished_run.log, re.MULTILINE)) == 1, line
    assert "STEP_" not in finished_run.log
    assert "Loading weights" not in finished_run.log
    entries = finished_run.deployment.records(finished_run.summary["run_id"])
    recorded = {(entry.step_key, entry.user_message) for entry in entries}
    assert any(step == "trained_model" and "epoch 2 of 2" in text for step, text in recorded)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"DAGSTER_HOME": ""}, "$DAGSTER_HOME"),
        ({"DAGSTER_HOME": "relative"}, "must be an absolute path"),
        ({"DAGSTER_HOME": "FOLDER/file"}, "cannot write FOLDER/file: Not a directory"),
        (
            {"DAGSTER_HOME": "/proc/mmctr"},
            "or set DAGSTER_HOME (now /proc/mmctr) to another folder",
        ),
        ({"MMCTR_STORAGE_DIR": "FOLDER/file"}, "cannot write FOLDER/file: Not a directory"),
        (
            {"MMCTR_STORAGE_DIR": "FOLDER/file/below"},
            "set MMCTR_STORAGE_DIR (now FOLDER/file/below)",
        ),
        ({"MMCTR_PRESET": "sampel"}, "unknown preset 'sampel'"),
        ({"MMCTR_EXECUTOR": "celery"}, "known executors"),
    ],
)
def test_an_unusable_environment_is_reported_in_one_line_without_a_run(
    variables: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    small_sample: Path,
) -> None:
    (tmp_path / "file").write_text("mine")
    deployment = Deployment(small_sample, tmp_path)
    for name, value in deployment.environment(**variables).items():
        monkeypatch.setenv(name, value.replace("FOLDER", str(tmp_path)))
    for function in (current_deployment, deployment_preset):
        function.cache_clear()
    try:
        assert run.main() == 2
    finally:
        for function in (current_deployment, deployment_preset):
            function.cache_clear()
    out = capsys.readouterr().out
    assert out.startswith("error: ")
    assert message.replace("FOLDER", str(tmp_path)) in out
    assert "Traceback" not in out
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_line_with_path_and_variable(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)
    model = deployment.storage / "best_model.pt"
    earlier, n_bytes = os.readlink(model), model.stat().st_size
    (tmp_path / "preset.yaml").write_text(PRESET.replace("max_epochs: 2", "max_epochs: 1"))
    largest = (n_bytes // 2, n_bytes // 2)
    result = subprocess.run(
        RUN_COMMAND,
        env=deployment.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, largest),
    )
    assert result.returncode == 1, result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: cannot write {deployment.storage}/")
    assert "File too large. Fix: raise the limit of file sizes (ulimit -f), or set " in line
    assert f"MMCTR_STORAGE_DIR (now {deployment.storage}) to another folder" in line
    assert "Traceback" not in result.stdout
    assert "The run failed; " in result.stdout
    assert os.readlink(model) == earlier
    assert ModelFile.load(model).training_config["max_epochs"] == 2


def test_a_database_that_cannot_grow_is_named(tmp_path: Path, small_sample: Path) -> None:
    deployment = Deployment(small_sample, tmp_path)
    result = subprocess.run(
        RUN_COMMAND,
        env=deployment.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert result.returncode == 2
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: Dagster cannot use its database in {deployment.home}: ")
    assert line.endswith("Fix: free some space there, or set DAGSTER_HOME to another folder")
    assert "Traceback" not in result.stdout


ENDLESS = PRESET.replace("max_epochs: 2, patience: 2", "max_epochs: 500, patience: 500")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "whom"),
    [
        (signal.SIGINT, "group"),
        (signal.SIGTERM, "leader"),
        (signal.SIGKILL, "leader"),
        (signal.SIGKILL, "dagster"),
    ],
)
def test_an_interrupted_run_leaves_the_earlier_model_and_no_processes(
    how: signal.Signals, whom: str, finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)
    earlier = os.readlink(deployment.storage / "best_model.pt")
    (tmp_path / "preset.yaml").write_text(ENDLESS)
    only_training = [
        *(sys.executable, "-m", "dagster", "asset", "materialize"),
        *("--select", "trained_model", "-m", "mmctr_pipeline.definitions"),
    ]
    process = subprocess.Popen(
        only_training if whom == "dagster" else RUN_COMMAND,
        env=deployment.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "epoch 2 of 500" in line:
                break
        else:
            pytest.fail("the run ended before it could be interrupted")
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3  # forkserver, resource tracker, step
        if whom == "group":  # as Ctrl-C in a terminal
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive
        rest = process.stdout.read()
    finally:
        process.kill()
        process.wait()
    assert os.readlink(deployment.storage / "best_model.pt") == earlier
    assert ModelFile.load(deployment.storage / "best_model.pt").training_config["max_epochs"] == 2
    if whom == "dagster":
        return
    with dg.DagsterInstance.from_config(str(deployment.home)) as instance:
        statuses = [record.status for record in instance.get_runs()]
        if how is signal.SIGKILL:
            assert statuses[0] is dg.DagsterRunStatus.STARTED
            assert len(report_dead_launches(instance)) == 1
            statuses = [record.status for record in instance.get_runs()]
        else:
            assert process.returncode == 128 + how, rest
            assert rest.splitlines()[-1].startswith(f"Stopped by {how.name}. ")
            assert "Traceback" not in rest
    assert statuses[0] is dg.DagsterRunStatus.FAILURE
