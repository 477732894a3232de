"""Assets materialised alone after an earlier run: overrides, the AUC gate, missing inputs."""

import dataclasses
from pathlib import Path
from typing import Any

import dagster as dg

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.registry.versions import write_version
from mmctr_pipeline.submission.gate import BelowAucFloorError
from mmctr_pipeline.training.trainer import FinalFit
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import Deployment, in_process

LOW_FLOOR = {"checks": {"auc_floor": 0.5, "beat_baselines": False}}
UNREACHABLE_FLOOR = {"checks": {"auc_floor": 0.9999, "beat_baselines": False}}


def _execute(deployment: Deployment, *assets: str, **configs: Any) -> dg.ExecuteInProcessResult:
    """Materialise assets in this process; `configs` are the configs of assets and checks."""
    job = in_process(deployment.data, deployment.storage, dg.AssetSelection.assets(*assets))
    run_config = {"ops": {name: {"config": config} for name, config in configs.items()}}
    return job.execute_in_process(run_config=run_config, raise_on_error=False)


def _error(result: dg.ExecuteInProcessResult) -> str:
    """Return the error of the only failed step, with its causes."""
    (failure,) = result.get_step_failure_events()
    assert failure.step_failure_data.error is not None
    return failure.step_failure_data.error.to_string()


def test_training_alone_reuses_the_vectors_and_applies_the_run_config(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)

    def vector_times() -> dict[str, int]:
        paths = deployment.storage.glob("*_embeddings.parquet")
        return {path.name: path.stat().st_mtime_ns for path in paths}

    before = vector_times()
    training = {"max_epochs": 1, "seed": 5, "final_fit": True}
    result = _execute(
        deployment,
        *("trained_model", "submission_csv"),
        trained_model={"training": training},
        trained_model_checks=LOW_FLOOR,
        submission_csv=LOW_FLOOR,
    )
    assert result.success
    model = ModelFile.load(deployment.storage / "best_model.pt")
    assert (model.training_config["max_epochs"], model.training_config["seed"]) == (1, 5)
    # Settings that the override leaves out keep the preset's value.
    assert model.training_config["batch_size"] == load_preset("sample").training.batch_size
    dataset = CtrDataset.read(deployment.storage / "train_dataset")
    assert model.final_fit is not None
    assert model.final_fit["n_rows"] == len(dataset.train) + len(dataset.valid)
    descriptions = {e.check_name: e.description for e in result.get_asset_check_evaluations()}
    assert "(of the selection run, before the final fit" in str(descriptions["auc_floor"])
    assert vector_times() == before


def test_a_model_below_the_auc_floor_is_submitted_neither_in_its_run_nor_later(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)
    submission = deployment.storage / "submission.csv"
    # If the file is written again, this additional line is gone.
    marked = submission.read_bytes() + b"\n"
    submission.write_bytes(marked)

    together = _execute(
        deployment,
        *("trained_model", "submission_csv"),
        trained_model={"training": {"max_epochs": 1}},
        trained_model_checks=UNREACHABLE_FLOOR,
        submission_csv=UNREACHABLE_FLOOR,
    )
    assert not together.success
    (check,) = together.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("auc_floor", False)

    alone = _execute(deployment, "submission_csv", submission_csv=UNREACHABLE_FLOOR)
    assert not alone.success
    assert f"{BelowAucFloorError.__name__}: {check.description}" in _error(alone)
    assert submission.read_bytes() == marked

    # With a lower floor the same model is submitted, without training again.
    version = (deployment.storage / "best_model.pt").resolve()
    assert _execute(deployment, "submission_csv", submission_csv=LOW_FLOOR).success
    assert submission.read_bytes() != marked
    assert (deployment.storage / "best_model.pt").resolve() == version


def test_the_check_computes_baselines_that_an_older_model_file_lacks(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)
    model = ModelFile.load(deployment.storage / "best_model.pt")
    old = dataclasses.replace(model, baselines={}, metrics=_without_baselines(model.metrics))
    config = {"checks": {"beat_baselines": True}}

    def verdict(model: ModelFile) -> tuple[bool, str]:
        write_version(deployment.storage, model)
        job = in_process(
            deployment.data,
            deployment.storage,
            dg.AssetSelection.checks_for_assets("trained_model"),
        )
        run_config = {"ops": {"trained_model_checks": {"config": config}}}
        result = job.execute_in_process(run_config, raise_on_error=False)
        (check,) = result.get_asset_check_evaluations()
        return check.passed, str(check.description)

    assert set(model.baselines) == {"popularity", "rates", "cosine"}
    assert verdict(old) == verdict(model)
    other = dataclasses.replace(old, data_fingerprint="other data")
    assert verdict(other)[0] is False
    assert "train_dataset has changed since; materialise trained_model again" in verdict(other)[1]
    final_fit = dataclasses.asdict(FinalFit(n_epochs=1, n_rows=9, train_loss=0.5, seconds=1))
    final = dataclasses.replace(old, final_fit=final_fit)
    assert "trained on the valid rows too" in verdict(final)[1]
    (deployment.storage / "fused_pca.parquet").unlink()
    assert "fused_pca.parquet is missing: materialise fused_pca" in verdict(old)[1]


def _without_baselines(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("baseline_")}


def test_a_missing_artefact_is_reported_with_the_asset_to_materialise(
    small_sample: Path, tmp_path: Path
) -> None:
    result = _execute(Deployment(small_sample, tmp_path), "submission_csv")
    assert not result.success
    assert "does not exist: materialise fused_pca first" in _error(result)
