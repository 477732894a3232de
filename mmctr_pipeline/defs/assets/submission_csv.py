"""`submission_csv`: a click probability for every test row, in the competition's format."""

import warnings
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_pandas import PandasColumn, create_dagster_pandas_dataframe_type

from mmctr_pipeline.data.build import read_test_ids
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.config import AssetConfig
from mmctr_pipeline.defs.days import data_of
from mmctr_pipeline.defs.drift import drift_outcome
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.monitoring.config import MonitoringConfig
from mmctr_pipeline.reporting import checks

with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)
    SubmissionFrame = create_dagster_pandas_dataframe_type(
        name="SubmissionFrame",
        description="One row per test row: its ID and its click probability.",
        columns=[
            PandasColumn.integer_column("ID", unique=True, non_nullable=True),
            PandasColumn.float_column("Task1&2", min_value=0.0, max_value=1.0, non_nullable=True),
        ],
    )


@declare.asset(
    decided_by="mmctr_pipeline.training.score",
    kinds={"csv", "pandas"},
    io_manager_key="submission_io",
    dagster_type=SubmissionFrame,
    metadata=declare.columns(
        **{"ID": ("int64", "as in the test file"), "Task1&2": ("float", "click probability")}
    ),
)
def submission_csv(
    deployment: DeploymentResource,
    champion: Any,
    text_embeddings: VectorTable,
    image_embeddings: VectorTable,
    fused_pca: VectorTable,
    train_dataset: CtrDataset,
) -> dg.Output[Any]:
    """The test rows as scored by the champion: submission.csv, and prediction.zip."""
    from mmctr_pipeline import pipeline
    from mmctr_pipeline.monitoring.night import require_not_blocked
    from mmctr_pipeline.recorded_vectors import vectors_for
    from mmctr_pipeline.submission.files import submission_frame
    from mmctr_pipeline.submission.gate import require_test_ids

    layout, device = deployment.layout(), deployment.torch_device()
    test_id = read_test_ids(layout, data_of(train_dataset))
    require_test_ids(train_dataset, test_id)
    require_not_blocked(deployment.storage, train_dataset.fingerprint)
    present = ItemVectors(fused_pca, text_embeddings, image_embeddings)
    vectors = vectors_for(
        champion, present, layout, train_dataset.items, deployment.storage, device
    )
    probability = pipeline.score(champion, train_dataset, train_dataset.test, vectors, device)
    frame = submission_frame(test_id, probability).to_pandas()
    scores = frame["Task1&2"]
    metadata = {
        "dagster/row_count": len(frame),
        "minimum": float(scores.min()),
        "maximum": float(scores.max()),
        "mean": float(scores.mean()),
        "valid AUC of the model when trained": champion.metrics["valid_auc"],
        "model trained": champion.created_at,
    }
    return dg.Output(frame, metadata=metadata)


@declare.checks(
    also_reads=("train_dataset",),
    submission_valid="IDs as in the test file, scores from 0 to 1, zip holds the CSV",
    score_drift="the scores are distributed like those of the last accepted night",
)
def submission_csv_checks(
    config: AssetConfig, deployment: DeploymentResource, train_dataset: CtrDataset
) -> list[checks.CheckOutcome]:
    """Check the files as written, and compare the scores with the last accepted night's.

    If neither check fails, the next night is compared with this one.
    """
    from mmctr_pipeline.submission.files import check_submission

    test_id = read_test_ids(deployment.layout(), data_of(train_dataset))
    storage = deployment.storage
    problems = check_submission(storage / "submission.csv", storage / "prediction.zip", test_id)
    valid = checks.submission_valid(problems, len(test_id))
    if not valid.passed:
        skipped = "not compared, as the files are not valid"
        return [valid, checks.CheckOutcome("score_drift", True, skipped, {})]
    return [valid, _score_drift(config, storage, train_dataset)]


def _score_drift(config: AssetConfig, storage: Path, dataset: CtrDataset) -> checks.CheckOutcome:
    from mmctr_pipeline.monitoring.night import check_scores
    from mmctr_pipeline.monitoring.profile import independent_size, profile_scores
    from mmctr_pipeline.submission.files import read_submission

    scores = read_submission(storage / "submission.csv")["Task1&2"].to_numpy()
    profile = profile_scores(scores, independent_size(dataset.test.user_id))
    limits = config.settings("monitoring", MonitoringConfig)
    verdict = check_scores(profile, storage, dataset.fingerprint, limits)
    figures = {f"quantile {name}": value for name, value in profile.quantiles.items()}
    return drift_outcome("score_drift", verdict, figures)
