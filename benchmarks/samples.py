"""Sample datasets for benchmarks: with tables of full size, or scaled to the number of rows."""

import dataclasses
from pathlib import Path

import numpy as np

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.items import read_given_vectors
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.pipeline import load_dataset
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample


def write_full_tables(folder: Path, n_train_rows: int, n_valid_rows: int) -> None:
    """Write a dataset of 91,717 items and 1,000,000 user ids with the given numbers of rows."""
    config = SampleConfig.full_size(
        n_train_rows=n_train_rows, n_valid_rows=n_valid_rows, n_test_rows=4
    )
    generate_sample(config, folder)


def write_full_size(folder: Path) -> None:
    """Write a dataset of the size of MicroLens_1M_x1: 3,600,000 train rows."""
    generate_sample(SampleConfig.full_size(), folder)


_ROWS_AT_SCALE_1 = 40_000
"""Train rows of the sample dataset of default size."""


def write_scaled(folder: Path, n_train_rows: int, n_valid_rows: int) -> np.ndarray:
    """Write a dataset whose items and users grow with its rows; return the valid labels."""
    config = SampleConfig.scaled(
        n_train_rows / _ROWS_AT_SCALE_1,
        n_train_rows=n_train_rows,
        n_valid_rows=n_valid_rows,
        images=False,
    )
    generate_sample(config, folder)
    label = read_sample(folder)[0].valid.label
    assert label is not None
    return label


def read_sample(folder: Path, n_train_rows: int | None = None) -> tuple[CtrDataset, ItemVectors]:
    """Return a dataset and the 128-dimensional vectors of its item_info.

    With `n_train_rows`, only the first `n_train_rows` train rows are kept.

    User ids are the rows of the user table, as in MicroLens_1M_x1. Otherwise the pipeline would
    number only the users that occur, and the table would be smaller.
    """
    layout = find_data(folder)
    dataset = _with_ids_as_rows(load_dataset(layout))
    train = dataset.train
    if n_train_rows is not None and n_train_rows < len(train):
        # A copy, so that the other rows do not stay in memory.
        train = train.take(np.arange(n_train_rows))
    vectors = ItemVectors(read_given_vectors(layout, "item_emb_d128"))
    return dataclasses.replace(dataset, train=train), vectors


def _with_ids_as_rows(dataset: CtrDataset) -> CtrDataset:
    if dataset.users is None:
        return dataset
    ids = dataset.users.ids.astype(np.int32)
    splits = {
        name: dataclasses.replace(split, user_id=ids[split.user_id - 1])
        for name, split in dataset.splits.items()
    }
    return dataclasses.replace(dataset, **splits, users=None)
