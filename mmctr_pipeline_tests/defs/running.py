"""Starting Dagster's own commands in the tests, in a home and a storage folder of their own."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from mmctr_pipeline.definitions import defs
from mmctr_pipeline.defs import io_managers
from mmctr_pipeline.defs.resources import PlacesResource

REPOSITORY = Path(__file__).parents[2]
PRESET = """
extends: sample
encoders: {text: {batch_tokens: 512}}
training: {max_epochs: 2, patience: 2, batch_size: 256}
checks: {auc_floor: 0.5, max_unreadable_images: 0.05}
"""
"""The sample preset with two epochs, enough for every part to run."""


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A data folder with a Dagster home and a storage folder that nobody else uses."""

    data: Path
    folder: Path

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def environment(self, **variables: str) -> dict[str, str]:
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
            **variables,
        }

    def command(self, selection: str, *arguments: str) -> list[str]:
        return [
            *(sys.executable, "-m", "dagster", "asset", "materialize", "--select", selection),
            *("-m", "mmctr_pipeline.definitions", *arguments),
        ]

    def materialize(
        self, selection: str, *arguments: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(selection, *arguments),
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    def check_results(self, run_id: str) -> dict[str, bool]:
        """Return `asset.check` -> passed of a run, as Dagster recorded it."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            records = instance.get_records_for_run(
                run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
            ).records
            evaluations: list[Any] = [
                record.event_log_entry.dagster_event.asset_check_evaluation_data
                for record in records
                if record.event_log_entry.dagster_event is not None
            ]
        return {
            f"{evaluation.asset_key.to_user_string()}.{evaluation.check_name}": evaluation.passed
            for evaluation in evaluations
        }


def in_process(data: Path, storage: Path, selection: dg.AssetSelection) -> dg.JobDefinition:
    """Return a job over `selection` that runs in this process on the given folders."""
    resources = {
        "places": PlacesResource(data_dir=str(data), storage_dir=str(storage), device="cpu"),
        "parquet_io": io_managers.ParquetIOManager(storage_dir=str(storage)),
        "dataset_io": io_managers.DatasetIOManager(storage_dir=str(storage)),
        "model_io": io_managers.ModelIOManager(storage_dir=str(storage)),
        "submission_io": io_managers.SubmissionIOManager(storage_dir=str(storage)),
    }
    return dg.Definitions(
        assets=defs.assets,
        asset_checks=defs.asset_checks,
        resources=resources,
        jobs=[dg.define_asset_job("selected", selection)],
        executor=dg.in_process_executor,
    ).resolve_job_def("selected")


def run_id_of(log: str) -> str:
    """Return the id of the run that a log of `dagster asset materialize` tells of."""
    found = re.search(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", log)
    assert found is not None, log
    return found.group()
