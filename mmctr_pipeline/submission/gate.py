"""Refuse to submit a model below its AUC floor, or rows other than those of the test file."""

import math

import numpy as np

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.submission.files import SubmissionError

REQUIRED_METRICS = ("valid_auc", "valid_auc_low", "valid_auc_high")


class BelowAucFloorError(SubmissionError):
    """The model is not good enough to be submitted, or does not record how good it is."""


def require_auc_floor(model_file: ModelFile) -> None:
    """Raise `BelowAucFloorError` unless the recorded validation AUC reaches the recorded floor.

    The asset check stops only the run that trained the model.
    """
    absent = [
        name
        for name in REQUIRED_METRICS
        if not math.isfinite(model_file.metrics.get(name, math.nan))
    ]
    if absent:
        raise BelowAucFloorError(
            f"the model file records no usable {', '.join(absent)}; models of unknown quality are "
            "not submitted: materialise trained_model again"
        )
    auc, floor = model_file.metrics["valid_auc"], model_file.auc_floor
    # Not `auc < floor`: a floor that is NaN must fail too.
    if not auc >= floor:
        raise BelowAucFloorError(
            f"the model's validation AUC {auc:.4f} is below its floor {floor:.4f} "
            "(checks.auc_floor of the preset it was trained with): train a better one, or lower "
            "the floor and materialise trained_model again"
        )


def require_test_ids(dataset: CtrDataset, test_id: np.ndarray) -> None:
    """Raise `SubmissionError` unless the dataset's test rows are those of the test file.

    `test_id` is the column `ID` of the test file, `(N,) int64`.
    """
    if dataset.test.row_id is None or not np.array_equal(dataset.test.row_id, test_id):
        raise SubmissionError(
            f"test.parquet has {len(test_id):,} rows that are not those of train_dataset "
            f"({len(dataset.test):,}): the file has changed since; materialise train_dataset again"
        )
