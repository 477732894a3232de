"""Helpers that read folders of tables, expect errors, compare datasets, make rows and parts."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.build import build_dataset
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.validation import DataError


def read_folder(root: Path) -> CtrDataset:
    """Read the data set in a folder."""
    return build_dataset(find_data(root))


def expect_data_error(root: Path) -> DataError:
    """Return the error that reading a folder raises."""
    with pytest.raises(DataError) as error:
        read_folder(root)
    assert error.value.fix
    return error.value


def assert_equal(dataset: CtrDataset, expected: CtrDataset) -> None:
    """Check that two datasets have the same rows, histories, titles and tags."""
    for name, split in dataset.splits.items():
        for column, values in split.columns.items():
            assert values.tolist() == expected.splits[name].columns[column].tolist(), column
    assert _lists(dataset.histories) == _lists(expected.histories)
    assert dataset.items.title.to_pylist() == expected.items.title.to_pylist()
    assert _lists(dataset.items.tags) == _lists(expected.items.tags)


def _lists(ragged: Ragged) -> list[list[int]]:
    return [values.tolist() for values in ragged]


def many_rows(n_rows: int = 600, width: int = 5) -> dict[str, Any]:
    """Return the columns of a train file with padded histories."""
    random = np.random.default_rng(7)
    lengths = random.integers(0, width + 1, n_rows)
    ids = random.integers(1, 10, (n_rows, width))
    ids[np.arange(width) < (width - lengths)[:, None]] = 0
    return {
        "user_id": random.integers(1, 40, n_rows),
        "item_id": random.integers(1, 10, n_rows),
        "item_seq": ids.tolist(),
        "likes_level": random.integers(0, 11, n_rows),
        "views_level": random.integers(0, 11, n_rows),
        "label": np.arange(n_rows) % 2,
    }


def split_into_parts(path: Path, n_parts: int = 3) -> Path:
    """Replace a parquet file by a folder of part files with the same rows."""
    table = pq.read_table(path)
    path.unlink()
    path.mkdir()
    ends = np.linspace(0, len(table), n_parts + 1).astype(int)
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        part = table.slice(start, end - start)
        pq.write_table(part, path / f"part-{number:05}.parquet")
    return path
