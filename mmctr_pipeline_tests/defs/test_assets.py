"""Assets materialised alone after an earlier run: overrides, old model files, missing inputs."""

import dataclasses
from pathlib import Path

import dagster as dg

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.registry.versions import latest_version, write_version
from mmctr_pipeline.training.trainer import FinalFit
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import Deployment, execute, in_process, only_error

LOW_FLOOR = {"checks": {"auc_floor": 0.5, "beat_baselines": False}}


def test_training_alone_reuses_the_vectors_and_applies_the_run_config(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)

    def vector_times() -> dict[str, int]:
        paths = deployment.storage.glob("*_embeddings.parquet")
        return {path.name: path.stat().st_mtime_ns for path in paths}

    before = vector_times()
    training = {"max_epochs": 1, "seed": 5, "final_fit": True}
    result = execute(
        deployment,
        *("trained_model", "champion", "submission_csv"),
        trained_model={"training": training},
        trained_model_checks=LOW_FLOOR,
        champion=LOW_FLOOR,
    )
    assert result.success
    model = ModelFile.load(deployment.storage / "latest_model.pt")
    assert (model.training_config["max_epochs"], model.training_config["seed"]) == (1, 5)
    # Settings that the override leaves out keep the preset's value.
    assert model.training_config["batch_size"] == load_preset("sample").training.batch_size
    dataset = CtrDataset.read(deployment.storage / "train_dataset")
    assert model.final_fit is not None
    assert model.final_fit["n_rows"] == len(dataset.train) + len(dataset.valid)
    descriptions = {e.check_name: e.description for e in result.get_asset_check_evaluations()}
    assert "(of the selection run, before the final fit" in str(descriptions["auc_floor"])
    assert vector_times() == before


def test_a_training_begins_with_the_champion_if_asked_and_by_itself_only_with_logs_by_day(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)
    champion = latest_version(deployment.storage)
    for warm_start, expected in (("auto", ""), ("champion", champion)):
        training = {"max_epochs": 1, "warm_start": warm_start}
        assert execute(deployment, "trained_model", trained_model={"training": training}).success
        assert ModelFile.load(deployment.storage / "latest_model.pt").warm_start == expected


def test_the_check_computes_baselines_that_an_older_model_file_lacks(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)
    model = ModelFile.load(deployment.storage / "latest_model.pt")
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
    result = execute(Deployment(small_sample, tmp_path), "submission_csv")
    assert not result.success
    assert "does not exist: materialise champion first" in only_error(result)
