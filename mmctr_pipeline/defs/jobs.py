"""The jobs: selections of assets that are run together."""

import dagster as dg

from mmctr_pipeline.defs.config import current_deployment
from mmctr_pipeline.defs.run_guard import STORAGE_TAG

STORAGE_TAGS = {STORAGE_TAG: str(current_deployment().storage_dir)}
"""Run tags of the jobs that write to the storage folder. By `dagster.yaml`, Dagster's queue starts
only one run at a time of those with the same folder."""

DAYS_GROUP = "days"
"""Group of the assets with a partition for each day, which only `day_pipeline` materialises."""

SOURCE_NAMES = ("item_feature", "item_images", "interactions")
SOURCES = dg.AssetSelection.assets(*SOURCE_NAMES)

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
    selection=dg.AssetSelection.assets(
        "trained_model", "champion", "model_report", "submission_csv"
    ),
    tags=STORAGE_TAGS,
    description="Model, report and submission from vectors and dataset of an earlier run.",
)

observe_sources = dg.define_asset_job(
    "observe_sources",
    selection=SOURCES.without_checks(),
    description="Hashes the contents of the sources, so that the UI marks stale artefacts.",
)

JOBS = [full_pipeline, encode, train, observe_sources]
