"""Models below their AUC floor and changed test files are refused before anything is written."""

import dataclasses

import numpy as np
import pytest

from mmctr_pipeline.submission.files import SubmissionError
from mmctr_pipeline.submission.gate import (
    BelowAucFloorError,
    require_auc_floor,
    require_test_ids,
)
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE
from mmctr_pipeline_tests.training.small_sample import small_sample


def test_a_model_that_reaches_its_floor_passes() -> None:
    require_auc_floor(MODEL_FILE)
    require_auc_floor(dataclasses.replace(MODEL_FILE, auc_floor=MODEL_FILE.metrics["valid_auc"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auc_floor": 0.9999}, r"AUC 0\.\d{4} is below its floor 0\.9999"),
        ({"auc_floor": float("nan")}, "below its floor nan"),
        ({"metrics": {}}, "no usable valid_auc, valid_auc_low, valid_auc_high"),
        (
            {"metrics": {"valid_auc": float("nan"), "valid_auc_low": 0.7, "valid_auc_high": 0.8}},
            "no usable valid_auc;",
        ),
    ],
)
def test_a_model_below_its_floor_or_of_unknown_quality_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(BelowAucFloorError, match=message):
        require_auc_floor(dataclasses.replace(MODEL_FILE, **changes))


def test_a_dataset_whose_test_rows_are_not_those_of_the_file_is_refused() -> None:
    dataset, _ = small_sample(n_train=10, n_valid=50)
    row_id = dataset.test.row_id
    assert row_id is not None
    require_test_ids(dataset, row_id)
    for changed in (row_id[:-1], row_id[::-1]):
        with pytest.raises(SubmissionError, match="materialise train_dataset again"):
            require_test_ids(dataset, changed)
    without = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, row_id=None))
    with pytest.raises(SubmissionError, match="materialise train_dataset again"):
        require_test_ids(without, np.arange(50))
