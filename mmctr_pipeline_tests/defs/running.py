"""Runs the pipeline in tests, in deployments with their own Dagster home and storage folder."""

import dataclasses
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from mmctr_pipeline.definitions import defs
from mmctr_pipeline.defs.io_managers import io_managers
from mmctr_pipeline.defs.resources import DeploymentResource

REPOSITORY = Path(__file__).parents[2]
RUN_COMMAND = [sys.executable, "-m", "mmctr_pipeline.defs.run"]
PRESET = """
extends: sample
encoders: {text: {batch_tokens: 512}}
training: {max_epochs: 2, patience: 2, batch_size: 256}
checks: {beat_baselines: false, max_unreadable_images: 0.05}
"""
"""The sample preset with two epochs, enough for every part to run."""

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-bucket-5d1c",
    "HF_TOKEN": "hf_secretOfTheHub5d1c",
    "DATABASE_URL": "postgresql://user:secret-of-the-database-5d1c@db/clicks",
    "MMCTR_SECRET": "secret-of-our-own-prefix-5d1c",
    "DAGSTER_CLOUD_API_TOKEN": "secret-of-dagster-5d1c",
}
"""Environment variables that a run must not record; every run in tests gets them."""


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A data folder with a Dagster home and a storage folder in `folder`."""

    data: Path
    folder: Path

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment variables of this deployment, changed by `variables`."""
        self.home.mkdir(parents=True, exist_ok=True)
        link = self.home / "dagster.yaml"
        if not link.exists():
            link.symlink_to(REPOSITORY / "dagster.yaml")
        preset = self.folder / "preset.yaml"
        if not preset.exists():
            preset.write_text(PRESET)
        return {
            **os.environ,
            "DAGSTER_HOME": str(self.home),
            "MMCTR_DATA_DIR": str(self.data),
            "MMCTR_STORAGE_DIR": str(self.storage),
            "MMCTR_PRESET": str(preset),
            "MMCTR_DEVICE": "cpu",
            **SECRETS,
            **variables,
        }

    def run_pipeline(self, max_file_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run the pipeline as `make run` does; errors are printed to stdout too.

        `max_file_bytes` limits the size of each file, to imitate a full disk.
        """

        def limit_files() -> None:
            if max_file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

        return subprocess.run(
            RUN_COMMAND,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            preexec_fn=limit_files,
        )

    def records(self, run_id: str, kind: dg.DagsterEventType | None = None) -> list[Any]:
        """Return the event log entries of a run, as Dagster recorded them."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            records = instance.get_records_for_run(run_id, of_type=kind).records
        return [record.event_log_entry for record in records]

    def check_results(self, run_id: str) -> dict[str, bool]:
        """Return for each `asset.check` of a run whether it passed, as Dagster recorded it."""
        entries = self.records(run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        return passed_by_check(entry.dagster_event.asset_check_evaluation_data for entry in entries)


def passed_by_check(evaluations: Any) -> dict[str, bool]:
    """Return for each `asset.check` whether it passed."""
    return {
        f"{evaluation.asset_key.to_user_string()}.{evaluation.check_name}": evaluation.passed
        for evaluation in evaluations
    }


def in_process(data: Path, storage: Path, selection: dg.AssetSelection) -> dg.JobDefinition:
    """Return a job over `selection` that runs in this process on the given folders."""
    deployment = DeploymentResource(data_dir=str(data), storage_dir=str(storage), device="cpu")
    return dg.Definitions(
        assets=defs.assets,
        asset_checks=defs.asset_checks,
        resources={"deployment": deployment, **io_managers(str(storage))},
        jobs=[dg.define_asset_job("selected", selection)],
        executor=dg.in_process_executor,
    ).resolve_job_def("selected")


def execute(deployment: Deployment, *assets: str, **configs: Any) -> dg.ExecuteInProcessResult:
    """Materialise assets in this process; `configs` are the configs of assets and checks."""
    job = in_process(deployment.data, deployment.storage, dg.AssetSelection.assets(*assets))
    run_config = {"ops": {name: {"config": config} for name, config in configs.items()}}
    return job.execute_in_process(run_config=run_config, raise_on_error=False)


def only_error(result: dg.ExecuteInProcessResult) -> str:
    """Return the error of the only failed step, with its causes."""
    (failure,) = result.get_step_failure_events()
    assert failure.step_failure_data.error is not None
    return failure.step_failure_data.error.to_string()
