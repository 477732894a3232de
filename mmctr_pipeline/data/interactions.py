"""The train dataset from the interaction files: checked, without padding, histories once each."""

import contextlib
import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.distinct import distinct_numbers
from mmctr_pipeline.data.fingerprint import fingerprint_dataset
from mmctr_pipeline.data.histories import Histories, read_histories
from mmctr_pipeline.data.items import read_items
from mmctr_pipeline.data.padding import PaddingCheck
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.schemas import LABELLED_COLUMNS, TEST_COLUMNS, Column
from mmctr_pipeline.data.validation import (
    Block,
    check_distinct,
    check_known,
    integers,
    open_parquet,
)
from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.files.read_ahead import read_ahead

logger = logging.getLogger(__name__)

_BATCH_ROWS = 65_536
_COLUMNS = {"train": LABELLED_COLUMNS, "valid": LABELLED_COLUMNS, "test": TEST_COLUMNS}
_DTYPES = {
    "user_id": np.int32,
    "item_id": np.int32,
    "likes_level": np.int8,
    "views_level": np.int8,
    "label": np.int8,
    "ID": np.int64,
}


@dataclasses.dataclass(frozen=True)
class _Rows:
    """One file as read but for its histories: number columns by name, each `(N,)`.

    `items_seen` are the ids of the items that stand there as a target or in a history.
    """

    numbers: dict[str, np.ndarray]
    n_with_target_in_history: int
    items_seen: np.ndarray


def read_test_ids(layout: DataLayout) -> np.ndarray:
    """Return the column `ID` of the test file, `(N,) int64`, in its order; raises `DataError`."""
    column = next(column for column in TEST_COLUMNS if column.name == "ID")
    with open_parquet(layout.test, (column,)) as file:
        array = file.read(columns=["ID"]).column("ID").combine_chunks()
    return integers(array, Block(layout.test, column)).astype(np.int64)


def build_dataset(layout: DataLayout) -> CtrDataset:
    """Read and check all interaction files and the item table.

    Histories lose their padding and are stored once per distinct list, in the order of first
    appearance; rows keep the order of their files. Holds two batches of rows at their padded width,
    one of them being read ahead. The provenance tells counts, shares of labels, overlap of users,
    and cold items.
    Raises `DataError`, naming file, column and row, for the first fault that is found.
    """
    items = read_items(layout)
    logger.info(f"{len(items):,} items in {layout.item_feature.name}")
    rows: dict[str, _Rows] = {}
    with contextlib.ExitStack() as stack:
        # All are opened first, so that a missing column shows before long reading.
        files = {
            name: stack.enter_context(open_parquet(getattr(layout, name), columns))
            for name, columns in _COLUMNS.items()
        }
        # Beside the reading, as hashing needs the bytes of the files and nothing else.
        hashing = stack.enter_context(ThreadPoolExecutor(1)).submit(fingerprint_dataset, layout)
        histories = Histories(list(files.values()))
        for name, file in files.items():
            reader = _Reader(getattr(layout, name), _COLUMNS[name], items, layout.item_feature)
            rows[name] = reader.read(file, histories)
            logger.info(f"{file.metadata.num_rows:,} rows in {getattr(layout, name).name}")
    distinct, index = histories.distinct()
    logger.info(f"{len(distinct):,} distinct histories in {len(index):,} rows")
    dataset = CtrDataset(
        **_splits(rows, index),
        items=items,
        histories=distinct,
        fingerprint=hashing.result(),
    )
    return dataclasses.replace(dataset, provenance=_provenance(dataset, layout, rows))


def read_train_histories(layout: DataLayout, items: ItemTable) -> Ragged:
    """Return the distinct histories of the train split alone, in the order of first appearance.

    They are checked, and stripped of their padding, as `build_dataset` does it; raises
    `DataError` likewise. This is what a learned fusion may read of the interactions.
    """
    columns = tuple(column for column in LABELLED_COLUMNS if column.name in ("item_id", "item_seq"))
    with open_parquet(layout.train, columns) as file:
        histories = Histories([file])
        _Reader(layout.train, columns, items, layout.item_feature).read(file, histories)
    distinct, _ = histories.distinct()
    logger.info(f"{len(distinct):,} distinct histories in {layout.train.name}")
    return distinct


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads and checks one interaction file batch by batch."""

    path: Path
    columns: tuple[Column, ...]
    items: ItemTable
    item_file: Path

    def read(self, file: pq.ParquetFile, histories: Histories) -> _Rows:
        """Read all rows; their histories go to the end of `histories`."""
        n_rows = file.metadata.num_rows
        names = [column.name for column in self.columns]
        numbers = {name: np.empty(n_rows, _DTYPES[name]) for name in names if name in _DTYPES}
        is_seen = np.zeros(int(self.items.item_id[-1]) + 1, dtype=bool)
        progress = Progress(logger, self.path.name, n_rows)
        padding = PaddingCheck()
        n_with_target, first_row = 0, 0
        known = self.items.item_id
        batches = file.iter_batches(_BATCH_ROWS, columns=names)
        with contextlib.closing(read_ahead(batches)) as ahead:
            for batch in ahead:
                blocks = {c.name: Block(self.path, c, first_row) for c in self.columns}
                rows = slice(first_row, first_row + len(batch))
                for name, values in numbers.items():
                    values[rows] = integers(batch.column(name), blocks[name])
                targets, each = numbers["item_id"][rows], np.arange(len(batch) + 1)
                check_known(targets, each, known, blocks["item_id"], self.item_file)
                history = read_histories(
                    batch.column("item_seq"), blocks["item_seq"], padding, known, self.item_file
                )
                is_seen[targets] = True
                is_seen[history.lists.values] = True
                n_with_target += history.n_with_target(targets)
                histories.append(history)
                first_row += len(batch)
                progress.advance(len(batch))
        if "ID" in numbers:
            check_distinct(numbers["ID"], Block(self.path, self.columns[names.index("ID")]))
        return _Rows(numbers, n_with_target, np.flatnonzero(is_seen))


def _splits(rows: dict[str, _Rows], history: np.ndarray) -> dict[str, Any]:
    splits, first = {}, 0
    for name, part in rows.items():
        columns = {("row_id" if key == "ID" else key): v for key, v in part.numbers.items()}
        last = first + len(part.numbers["item_id"])
        splits[name] = Split(history=history[first:last], **columns)
        first = last
    return splits


def _provenance(dataset: CtrDataset, layout: DataLayout, rows: dict[str, _Rows]) -> dict[str, Any]:
    lengths = dataset.histories.lengths
    train_users = distinct_numbers(dataset.train.user_id)
    seen_in_train = rows["train"].items_seen
    facts: dict[str, Any] = {
        "files": {
            name: str(getattr(layout, name).relative_to(layout.root))
            for name in ("train", "valid", "test", "item_feature")
        },
        "n_items": len(dataset.items),
        "n_distinct_histories": len(dataset.histories),
    }
    for name, split in dataset.splits.items():
        row_lengths = lengths[split.history]
        users, targets = distinct_numbers(split.user_id), distinct_numbers(split.item_id)
        facts[name] = {
            "n_rows": len(split),
            "n_users": len(users),
            "n_target_items": len(targets),
            "mean_history_length": float(row_lengths.mean()),
            "max_history_length": int(row_lengths.max()),
            "share_empty_history": float((row_lengths == 0).mean()),
            "share_target_in_history": rows[name].n_with_target_in_history / len(split),
        }
        if split.label is not None:
            facts[name]["share_positive"] = float(split.label.mean())
        if name != "train":
            is_cold = ~np.isin(split.item_id, seen_in_train)
            facts[name]["share_users_in_train"] = float(np.isin(users, train_users).mean())
            facts[name]["n_cold_items"] = len(np.setdiff1d(targets, seen_in_train))
            facts[name]["share_rows_with_cold_item"] = float(is_cold.mean())
    return facts
