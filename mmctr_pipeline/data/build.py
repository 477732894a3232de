"""Builds the train dataset from the interaction files: checked, unpadded, each history once."""

import contextlib
import dataclasses
import logging
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.fingerprint import fingerprint_dataset
from mmctr_pipeline.data.histories import (
    PaddingCheck,
    RowHistories,
    merge_histories,
    read_histories,
)
from mmctr_pipeline.data.items import read_items
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.schemas import (
    HISTORY_COLUMNS,
    LABELLED_COLUMNS,
    ROW_ID,
    TEST_COLUMNS,
    Column,
)
from mmctr_pipeline.data.validation import (
    Block,
    check_distinct,
    check_known,
    integers,
    open_parquet,
)
from mmctr_pipeline.files.progress import Progress

logger = logging.getLogger(__name__)

_BATCH_ROWS = 65_536
_COLUMNS = {"train": LABELLED_COLUMNS, "valid": LABELLED_COLUMNS, "test": TEST_COLUMNS}


@dataclasses.dataclass(frozen=True)
class _Rows:
    """One interaction file without its histories: number columns by name, each `(N,)`.

    `items_seen` has the ids of all targets and history items.
    """

    numbers: dict[str, np.ndarray]
    n_with_target_in_history: int
    items_seen: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers["item_id"])


def read_test_ids(layout: DataLayout) -> np.ndarray:
    """Return the column `ID` of the test file, `(N,) int64`, in its order; raises `DataError`."""
    with open_parquet(layout.test, (ROW_ID,)) as file:
        array = file.read(columns=["ID"]).column("ID").combine_chunks()
    return integers(array, Block(layout.test, ROW_ID))


def build_dataset(layout: DataLayout) -> CtrDataset:
    """Read and check all interaction files and the item table.

    Histories lose their padding and are stored once each, by first appearance; rows keep the order
    of their files. Two batches of rows at their padded width are in memory at a time, one of them
    being read ahead. The provenance has counts, shares of labels, overlap of users, and cold items.
    Raises `DataError` naming file, column and row of the first fault.
    """
    items = read_items(layout)
    logger.info(f"{len(items):,} items in {layout.item_feature.name}")
    rows: dict[str, _Rows] = {}
    parts: list[RowHistories] = []
    with contextlib.ExitStack() as stack:
        # Open all files first, so that a missing column shows before minutes of reading.
        files = {
            name: stack.enter_context(open_parquet(getattr(layout, name), columns))
            for name, columns in _COLUMNS.items()
        }
        # In parallel with reading, as hashing needs only the bytes of the files.
        hashing = stack.enter_context(ThreadPoolExecutor(1)).submit(fingerprint_dataset, layout)
        for name, file in files.items():
            path = getattr(layout, name)
            rows[name] = _read_rows(file, path, _COLUMNS[name], items, layout.item_feature, parts)
            logger.info(f"{len(rows[name]):,} rows in {path.name}")
    histories, index = merge_histories(parts)
    logger.info(f"{len(histories):,} distinct histories in {len(index):,} rows")
    ends = np.cumsum([len(part) for part in rows.values()])
    splits: dict[str, Any] = {
        name: Split(history=history, **part.numbers)
        for (name, part), history in zip(rows.items(), np.split(index, ends[:-1]), strict=True)
    }
    dataset = CtrDataset(**splits, items=items, histories=histories, fingerprint=hashing.result())
    return dataclasses.replace(dataset, provenance=_provenance(dataset, layout, rows))


def read_train_histories(layout: DataLayout, items: ItemTable) -> Ragged:
    """Return the distinct histories of the train split, by first appearance.

    Learned fusions may read only these from the interactions. Checks and strips histories as
    `build_dataset` does, and raises `DataError` likewise.
    """
    parts: list[RowHistories] = []
    with open_parquet(layout.train, HISTORY_COLUMNS) as file:
        _read_rows(file, layout.train, HISTORY_COLUMNS, items, layout.item_feature, parts)
    distinct, _ = merge_histories(parts)
    logger.info(f"{len(distinct):,} distinct histories in {layout.train.name}")
    return distinct


def read_ahead(batches: Iterator[pa.RecordBatch]) -> Generator[pa.RecordBatch, None, None]:
    """Yield the batches in order, each fetched in a thread while the previous one is in use.

    An error while fetching is raised in place of that batch. Close the generator
    (`contextlib.closing`) if it may not run to its end: closing waits for the batch in flight, so
    that no thread reads from a file closed meanwhile.
    """
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


def _read_rows(
    file: pq.ParquetFile,
    path: Path,
    columns: tuple[Column, ...],
    items: ItemTable,
    item_file: Path,
    histories: list[RowHistories],
) -> _Rows:
    """Read and check one interaction file batch by batch; append to `histories`."""
    n_rows, known = file.metadata.num_rows, items.item_id
    names = [column.name for column in columns]
    numbers = {c.name: np.empty(n_rows, c.dtype) for c in columns if c.kind == "int"}
    is_seen = np.zeros(int(known[-1]) + 1, dtype=bool)
    progress = Progress(logger, path.name, n_rows)
    padding = PaddingCheck()
    n_with_target, first_row = 0, 0
    with contextlib.closing(read_ahead(file.iter_batches(_BATCH_ROWS, columns=names))) as batches:
        for batch in batches:
            blocks = {column.name: Block(path, column, first_row) for column in columns}
            rows = slice(first_row, first_row + len(batch))
            for name, values in numbers.items():
                values[rows] = integers(batch.column(name), blocks[name])
            targets, offsets = numbers["item_id"][rows], np.arange(len(batch) + 1)
            check_known(targets, offsets, known, blocks["item_id"], item_file)
            sequences = batch.column("item_seq")
            history = read_histories(sequences, blocks["item_seq"], padding, known, item_file)
            is_seen[targets] = True
            is_seen[history.lists.values] = True
            n_with_target += history.count_with_target(targets)
            histories.append(history)
            first_row = rows.stop
            progress.advance(len(batch))
    if "ID" in numbers:
        check_distinct(numbers["ID"], Block(path, ROW_ID))
        numbers["row_id"] = numbers.pop("ID")
    return _Rows(numbers, n_with_target, np.flatnonzero(is_seen))


def _provenance(dataset: CtrDataset, layout: DataLayout, rows: dict[str, _Rows]) -> dict[str, Any]:
    lengths = dataset.histories.lengths
    train_users = _distinct(dataset.train.user_id)
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
        users, targets = _distinct(split.user_id), _distinct(split.item_id)
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


def _distinct(numbers: np.ndarray) -> np.ndarray:
    """Return the distinct numbers, ascending."""
    # With counts `np.unique` sorts; alone it hashes, which is slower for millions of values.
    return np.unique(numbers, return_counts=True)[0]
