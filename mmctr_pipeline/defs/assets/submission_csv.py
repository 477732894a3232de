"""`submission_csv`: a click probability for every test row, as the competition takes it."""

import warnings
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster_pandas import PandasColumn, create_dagster_pandas_dataframe_type

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs.executors import GPU_TAGS
from mmctr_pipeline.defs.metadata import OWNERS, check_results, check_specs, columns
from mmctr_pipeline.defs.resources import PlacesResource

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


@dg.asset(
    description="Scores of the test rows: submission.csv, and prediction.zip for the competition.",
    group_name="submission",
    kinds={"csv", "pandas"},
    owners=OWNERS,
    op_tags=GPU_TAGS,
    code_version="1",
    io_manager_key="submission_io",
    dagster_type=SubmissionFrame,
    metadata=columns(
        **{"ID": ("int64", "as in the test file"), "Task1&2": ("float", "click probability")}
    ),
)
def submission_csv(
    context: dg.AssetExecutionContext,
    places: PlacesResource,
    trained_model: Any,
    text_embeddings: VectorTable,
    image_embeddings: VectorTable,
    fused_pca: VectorTable,
    train_dataset: CtrDataset,
) -> Any:
    """Score the test rows, unless the model file says that it must not be used."""
    from mmctr_pipeline.data.interactions import read_test_ids
    from mmctr_pipeline.submission.score import require_test_ids, score_test

    require_test_ids(train_dataset, read_test_ids(places.layout(context.log.info)))
    frame = score_test(
        trained_model,
        train_dataset,
        fused_pca,
        places.torch_device(),
        context.log.info,
        {"text": text_embeddings, "image": image_embeddings},
    ).to_pandas()
    scores = frame["Task1&2"]
    context.add_output_metadata(
        {
            "dagster/row_count": len(frame),
            "minimum": float(scores.min()),
            "maximum": float(scores.max()),
            "mean": float(scores.mean()),
            "valid AUC of the model": trained_model.metrics["valid_auc"],
        }
    )
    return frame


@dg.multi_asset_check(
    name="submission_csv_checks",
    specs=check_specs(
        "submission_csv",
        blocking={"submission_valid": "IDs as in the test file, probabilities, zip equal to CSV"},
    ),
)
def submission_csv_checks(
    context: dg.AssetCheckExecutionContext, places: PlacesResource
) -> Iterator[dg.AssetCheckResult]:
    """Check the files as written, against the IDs of the test file."""
    from mmctr_pipeline.data.interactions import read_test_ids
    from mmctr_pipeline.reporting.checks import submission_valid
    from mmctr_pipeline.submission.files import check_submission

    row_id = read_test_ids(places.layout(context.log.info))
    storage = places.storage
    problems = check_submission(storage / "submission.csv", storage / "prediction.zip", row_id)
    yield from check_results("submission_csv", [submission_valid(problems, len(row_id))])
