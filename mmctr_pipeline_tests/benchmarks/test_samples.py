"""The benchmarks read sample datasets with a full-size user table, as in MicroLens_1M_x1."""

from pathlib import Path

import numpy as np

from benchmarks.samples import read_sample
from mmctr_pipeline.data.build import build_dataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample


def test_user_ids_stay_unmapped_so_that_tables_have_a_row_for_every_user(tmp_path: Path) -> None:
    sizes = {"n_train_rows": 400, "n_valid_rows": 40, "n_test_rows": 40}
    generate_sample(SampleConfig(n_items=150, n_users=5_000, images=False, **sizes), tmp_path)
    mapped = build_dataset(find_data(tmp_path))
    assert mapped.users is not None
    dataset, _ = read_sample(tmp_path)
    assert dataset.users is None
    assert max(split.user_id.max() for split in dataset.splits.values()) == 5_000
    for name, split in dataset.splits.items():
        ids = mapped.users.ids[mapped.splits[name].user_id - 1]
        np.testing.assert_array_equal(split.user_id, ids)
        assert split.user_id.dtype == np.int32
