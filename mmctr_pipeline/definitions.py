"""Everything Dagster sees: assets, checks, jobs, the schedule, resources and the executor."""

import os
import warnings

import dagster as dg

from mmctr_pipeline.defs import io_managers, jobs, schedules
from mmctr_pipeline.defs.assets import (
    fused_pca,
    image_embeddings,
    sources,
    submission_csv,
    text_embeddings,
    train_dataset,
    trained_model,
)
from mmctr_pipeline.defs.config import deployment
from mmctr_pipeline.defs.executors import executor
from mmctr_pipeline.defs.resources import PlacesResource
from mmctr_pipeline.environment import share_cores

share_cores()
if not os.environ.get("DAGSTER_HOME"):
    warnings.warn(
        "DAGSTER_HOME is not set: the history of this run will be lost. "
        'Use make, or: export DAGSTER_HOME="$PWD/.dagster"',
        stacklevel=1,
    )

_STORAGE = str(deployment().storage_dir)

defs = dg.Definitions(
    assets=[
        sources.item_feature,
        sources.item_images,
        sources.interactions,
        text_embeddings.text_embeddings,
        image_embeddings.image_embeddings,
        fused_pca.fused_pca,
        train_dataset.train_dataset,
        trained_model.trained_model,
        submission_csv.submission_csv,
    ],
    asset_checks=[
        text_embeddings.text_embeddings_checks,
        image_embeddings.image_embeddings_checks,
        fused_pca.fused_pca_checks,
        train_dataset.train_dataset_checks,
        trained_model.trained_model_checks,
        submission_csv.submission_csv_checks,
    ],
    jobs=jobs.JOBS,
    schedules=[schedules.nightly],
    resources={
        "places": PlacesResource.of(deployment()),
        "parquet_io": io_managers.ParquetIOManager(storage_dir=_STORAGE),
        "dataset_io": io_managers.DatasetIOManager(storage_dir=_STORAGE),
        "model_io": io_managers.ModelIOManager(storage_dir=_STORAGE),
        "submission_io": io_managers.SubmissionIOManager(storage_dir=_STORAGE),
    },
    executor=executor(deployment().executor),
)
