"""The jobs, and the schedule that runs the whole pipeline at 02:00 if its inputs have changed."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from mmctr_pipeline.defs.config import current_deployment, deployment_preset

STAMP_TAG = "mmctr/input_stamp"
"""Run tag with the stamp of the inputs that a scheduled run started from."""

STORAGE_TAGS = {"mmctr/storage": str(current_deployment().storage_dir)}
"""Run tags of the jobs that write to the storage folder. By `dagster.yaml`, Dagster's queue starts
only one run at a time of those with the same folder."""

DAYS_GROUP = "days"
"""Group of the assets with a partition for each day, which only `day_pipeline` materialises."""

SOURCES = dg.AssetSelection.assets("item_feature", "item_images", "interactions")

full_pipeline = dg.define_asset_job(
    "full_pipeline",
    # `all` leaves out the sources, which are observed, not materialised.
    selection=(SOURCES | dg.AssetSelection.all()) - dg.AssetSelection.groups(DAYS_GROUP),
    tags=STORAGE_TAGS,
    description="Everything from the sources to the submission. The nightly schedule runs it.",
)

encode = dg.define_asset_job(
    "encode",
    selection=dg.AssetSelection.assets("text_embeddings", "image_embeddings", "fused_pca"),
    tags=STORAGE_TAGS,
    description="Only the item vectors: titles, images and their fusion.",
)

train = dg.define_asset_job(
    "train",
    selection=dg.AssetSelection.assets("trained_model", "champion", "submission_csv"),
    tags=STORAGE_TAGS,
    description="Model and submission from the vectors and the dataset of an earlier run.",
)

observe_sources = dg.define_asset_job(
    "observe_sources",
    selection=SOURCES.without_checks(),
    description="Hashes the contents of the sources, so that the UI marks stale artefacts.",
)

JOBS = [full_pipeline, encode, train, observe_sources]


@dg.schedule(
    job=full_pipeline,
    cron_schedule="0 2 * * *",
    execution_timezone=current_deployment().timezone,
    description="Every night at 02:00 (MMCTR_TIMEZONE, default UTC), if data or preset changed.",
)
def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Request a run unless the last successful scheduled run started from the same inputs."""
    stamp = input_stamp()
    latest = context.instance.get_runs(
        dg.RunsFilter(
            job_name=full_pipeline.name,
            statuses=[dg.DagsterRunStatus.SUCCESS],
            tags={"dagster/schedule_name": "nightly"},
        ),
        limit=1,
    )
    if latest and latest[0].tags.get(STAMP_TAG) == stamp:
        return dg.SkipReason(
            f"data and preset have not changed since run {latest[0].run_id}, which succeeded"
        )
    return dg.RunRequest(tags={STAMP_TAG: stamp})


def input_stamp() -> str:
    """Return a hash of a run's inputs: the preset, and names, sizes and times of the data files.

    Unlike the fingerprints of the source assets, it does not hash the contents of files. No file is
    opened, so the schedule can compute the stamp at each tick.
    """
    digest = hashlib.sha256(json.dumps(deployment_preset().to_mapping(), sort_keys=True).encode())
    data_dir = current_deployment().data_dir
    for entry in _entries(data_dir) if data_dir is not None else ():
        digest.update(entry.encode())
    return digest.hexdigest()[:16]


def _entries(folder: Path) -> Iterator[str]:
    # Links to folders are not followed, as they may lead in circles or out of the data folder. If
    # a link leads to a folder within the data folder, its files are listed at their real place.
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            try:
                status = path.stat()
                stamp = f"{status.st_size}\0{status.st_mtime_ns}"
            except OSError:
                # A broken link is not an error here: the run counts it as an unreadable image.
                stamp = "unreadable"
            yield f"{path.relative_to(folder)}\0{stamp}\n"
