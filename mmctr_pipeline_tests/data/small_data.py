"""A small data set that tests can corrupt in different ways."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Columns = dict[str, Any]


def item_feature(n_items: int = 9) -> Columns:
    ids = list(range(1, n_items + 1))
    return {
        "item_id": ids,
        "item_title": [f"video {item_id}" for item_id in ids],
        "item_tags": [[0, 0, item_id, 7] for item_id in ids],
        "likes_level": [item_id % 11 for item_id in ids],
        "views_level": [item_id % 11 for item_id in ids],
    }


def train() -> Columns:
    return {
        "user_id": [1, 1, 2, 2],
        "item_id": [4, 5, 6, 7],
        "item_seq": [[0, 1, 2], [0, 1, 2], [3, 2, 1], [0, 0, 0]],
        "likes_level": [4, 5, 6, 7],
        "views_level": [0, 1, 9, 10],
        "label": [1, 0, 0, 1],
    }


def valid() -> Columns:
    return {
        "user_id": [2, 3],
        "item_id": [3, 8],
        "item_seq": [[3, 2, 1], [0, 0, 2]],
        "likes_level": [1, 2],
        "views_level": [3, 4],
        "label": [0, 1],
    }


def test() -> Columns:
    columns = {**valid(), "ID": [11, 10], "item_id": [9, 1]}
    del columns["label"]
    return columns


def write(path: Path, columns: Columns) -> Path:
    """Write columns (lists, or Arrow arrays if the type matters) to a parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def write_data(root: Path, **changed: Columns) -> Path:
    """Write the four required files into `root`, some of them with changed columns."""
    files = {"item_feature": item_feature(), "train": train(), "valid": valid(), "test": test()}
    for name, columns in {**files, **changed}.items():
        write(root / f"{name}.parquet", columns)
    return root
