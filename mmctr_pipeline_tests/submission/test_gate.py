"""A submission is refused if the test file has changed."""

import dataclasses

import numpy as np
import pytest

from mmctr_pipeline.submission.files import SubmissionError
from mmctr_pipeline.submission.gate import require_test_ids
from mmctr_pipeline_tests.training.small_sample import small_sample


def test_a_dataset_whose_test_ids_differ_from_the_test_file_is_refused() -> None:
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
