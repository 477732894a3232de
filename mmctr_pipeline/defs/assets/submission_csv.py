"""`submission_csv`: a click probability for every test row, in the competition's format."""

import warnings
from typing import Any

import dagster as dg
from dagster_pandas import PandasColumn, create_dagster_pandas_dataframe_type

from mmctr_pipeline.data.build import read_test_ids
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.resources import DeploymentResource
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
    group_name="submission",
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
    from mmctr_pipeline.recorded_vectors import vectors_for
    from mmctr_pipeline.submission.files import submission_frame
    from mmctr_pipeline.submission.gate import require_test_ids

    layout, device = deployment.layout(), deployment.torch_device()
    test_id = read_test_ids(layout)
    require_test_ids(train_dataset, test_id)
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


@declare.checks(submission_valid="IDs as in the test file, scores from 0 to 1, zip holds the CSV")
def submission_csv_checks(deployment: DeploymentResource) -> list[checks.CheckOutcome]:
    """Check the files as written, against the IDs of the test file."""
    from mmctr_pipeline.submission.files import check_submission

    test_id = read_test_ids(deployment.layout())
    storage = deployment.storage
    problems = check_submission(storage / "submission.csv", storage / "prediction.zip", test_id)
    return [checks.submission_valid(problems, len(test_id))]
