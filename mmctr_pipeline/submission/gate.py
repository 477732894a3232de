"""Refuse to score rows other than those of the test file."""

import numpy as np

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.submission.files import SubmissionError


def require_test_ids(dataset: CtrDataset, test_id: np.ndarray) -> None:
    """Raise `SubmissionError` unless the dataset's test rows are those of the test file.

    `test_id` is the column `ID` of the test file, `(N,) int64`.
    """
    if dataset.test.row_id is None or not np.array_equal(dataset.test.row_id, test_id):
        raise SubmissionError(
            f"the {len(test_id):,} rows of the test file are not the {len(dataset.test):,} test "
            "rows of train_dataset: the file has changed since; materialise train_dataset again"
        )
