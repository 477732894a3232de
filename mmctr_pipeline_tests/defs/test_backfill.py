"""A backfill of past days gives the datasets of the nights themselves, one day after another."""

import itertools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.files.records import read_record
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample
from mmctr_pipeline_tests.defs.running import REPOSITORY, RUN_COMMAND, Deployment, execute
from mmctr_pipeline_tests.defs.servers import BIN, WORKSPACE, daemon

pytestmark = pytest.mark.slow

PRESET = """
extends: sample
data: {min_valid_rows: 200}
encoders:
  text: {source: given, column: txt_emb_BERT}
  image: {source: none}
training: {max_epochs: 1, patience: 1, batch_size: 512}
checks: {beat_baselines: false, max_missing_images: 1.0}
"""
NIGHTS = ["2026-10-29", "2026-10-30", "2026-10-31"]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    folder = tmp_path_factory.mktemp("backfill")
    generate_sample(SampleConfig.scaled(0.1, days=5, images=False), folder / "data")
    (folder / "preset.yaml").write_text(PRESET)
    return Deployment(folder / "data", folder)


def _as_of(deployment: Deployment, day: str, folder: Path) -> Deployment:
    """Return a deployment on the data as they were in the night of a day, with its own storage.

    Later days do not exist yet; item_feature has its later items already.
    """
    data = shutil.copytree(deployment.data, folder / day / "data")
    for logs in ("interactions", "candidates"):
        for path in (data / logs).iterdir():
            if path.name > f"day={day}":
                shutil.rmtree(path)
    shutil.copy(deployment.folder / "preset.yaml", folder / day)
    return Deployment(data, folder / day)


def _files(deployment: Deployment) -> dict[str, bytes]:
    folder = deployment.storage / "train_dataset"
    names = ("train", "valid", "test", "items", "users")
    paths = [path for name in names if (path := folder / f"{name}.parquet").exists()]
    return {path.name: path.read_bytes() for path in paths}


def _night(deployment: Deployment, day: str) -> tuple[str, dict[str, bytes]]:
    """Build the dataset of the latest day in this process; return its fingerprint and files."""
    execute(deployment, "train_dataset", train_dataset={"data": {"min_valid_rows": 200}})
    dataset = CtrDataset.read(deployment.storage / "train_dataset")
    assert dataset.day == day
    return dataset.fingerprint, _files(deployment)


@pytest.fixture(scope="module")
def nights(
    deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[str, dict[str, bytes]]]:
    folder = tmp_path_factory.mktemp("nights")
    return {day: _night(_as_of(deployment, day, folder), day) for day in NIGHTS}


def test_a_backfill_of_past_days_gives_the_datasets_of_the_nights(
    deployment: Deployment, nights: dict[str, tuple[str, dict[str, bytes]]]
) -> None:
    backfill = [
        *(str(BIN / "dagster"), "job", "backfill", "-j", "day_pipeline", "--noprompt"),
        *(*WORKSPACE, "--from", NIGHTS[0], "--to", NIGHTS[-1]),
    ]
    with daemon(deployment, MMCTR_EXECUTOR="in_process") as dagster:
        result = subprocess.run(
            backfill, cwd=REPOSITORY, env=dagster.environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr
        records = dagster.finished_runs("day_pipeline", len(NIGHTS), timeout_seconds=400)
    for record, day in zip(records, NIGHTS, strict=True):
        assert record.dagster_run.status == dg.DagsterRunStatus.SUCCESS
        assert record.dagster_run.tags["mmctr/day"] == day
        summary = read_record(deployment.storage / "days" / f"{day}.json")
        assert (summary["day"], summary["data_fingerprint"]) == (day, nights[day][0])
    # All runs write to one folder, so none may begin before the one before it has ended.
    for earlier, later in itertools.pairwise(records):
        assert earlier.end_time <= later.start_time
    assert _files(deployment) == nights[NIGHTS[-1]][1]
    assert len({fingerprint for fingerprint, _ in nights.values()}) == len(NIGHTS)


def test_make_run_for_a_past_day_gives_its_dataset_and_tags_the_run(
    deployment: Deployment, nights: dict[str, tuple[str, dict[str, bytes]]], tmp_path: Path
) -> None:
    day = NIGHTS[1]
    (tmp_path / "preset.yaml").write_text(PRESET)
    own = Deployment(deployment.data, tmp_path)
    result = subprocess.run(
        [*RUN_COMMAND, "--day", day],
        env=own.environment(MMCTR_EXECUTOR="in_process"),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Day {day}\n" in result.stdout
    assert _files(own) == nights[day][1]
    summary: dict[str, Any] = json.loads((own.storage / "run_summary.json").read_text())
    assert (summary["day"], summary["data_fingerprint"]) == (day, nights[day][0])
    assert 0.8 < summary["best_possible_auc"] < 0.95
    with dg.DagsterInstance.from_config(str(own.home)) as instance:
        run = instance.get_run_by_id(summary["run_id"])
    assert run is not None
    assert run.tags["mmctr/day"] == day
