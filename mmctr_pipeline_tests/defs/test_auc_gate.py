"""MicroLens_1M_x1 is recognised by its counts; a sample dataset of the same size is not."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.known import MICROLENS_1M_X1, data_set_name
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.defs.auc_gate import data_name
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.sample.config import SamplePaths


def _constant(n_rows: int) -> np.ndarray:
    """Return ones that take no memory."""
    return np.broadcast_to(np.int32(1), n_rows)


def _dataset(n_train: int = 3_600_000, n_items: int = 91_717) -> CtrDataset:
    train, valid, test = (Split(*[_constant(n)] * 5) for n in (n_train, 10_000, 379_142))
    ids = np.arange(1, n_items + 1)
    tags = Ragged(np.zeros(0, np.int32), np.zeros(n_items + 1, np.int64))
    items = ItemTable(ids, ids, pa.nulls(n_items, pa.string()), tags, ids, ids)
    return CtrDataset(train, valid, test, items, Ragged.from_lists([[1]]), "")


def test_microlens_1m_x1_is_recognised_by_its_counts() -> None:
    assert data_set_name(_dataset()) == MICROLENS_1M_X1
    assert data_set_name(_dataset(n_train=3_599_999)) == ""
    assert data_set_name(_dataset(n_items=91_716)) == ""


@pytest.mark.parametrize("is_sample", [False, True])
def test_a_sample_dataset_of_full_size_is_not_taken_for_microlens(
    tmp_path: Path, is_sample: bool
) -> None:
    if is_sample:
        SamplePaths(tmp_path).summary.write_text("{}")
    deployment = DeploymentResource(data_dir=str(tmp_path), storage_dir=str(tmp_path), device="cpu")
    assert data_name(_dataset(), deployment) == ("" if is_sample else MICROLENS_1M_X1)
    small = dataclasses.replace(_dataset(), valid=Split(*[_constant(5)] * 5))
    assert data_name(small, deployment) == ""
