"""The train dataset from the interaction files: checked, without padding, histories once each."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.distinct import distinct_lists
from mmctr_pipeline.data.fingerprint import fingerprint_dataset
from mmctr_pipeline.data.items import read_items, without_zeros
from mmctr_pipeline.data.progress import Progress
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.schemas import LABELLED_COLUMNS, TEST_COLUMNS, Column
from mmctr_pipeline.data.validation import (
    Block,
    PaddingCheck,
    check_distinct,
    check_known,
    integer_lists,
    integers,
    open_parquet,
)

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


class _Histories:
    """Histories of all files end to end, in memory that is reserved once.

    Padding counts into what is reserved, but pages that are never written take no memory.
    """

    def __init__(self, files: list[pq.ParquetFile]) -> None:
        n_rows = sum(file.metadata.num_rows for file in files)
        self._values = np.empty(sum(map(_n_list_values, files)), dtype=np.int32)
        self._offsets = np.zeros(n_rows + 1, dtype=np.int64)
        self._n_rows = 0

    def append(self, part: Ragged) -> None:
        first, last = self._n_rows, self._n_rows + len(part)
        start = self._offsets[first]
        self._values[start : start + len(part.values)] = part.values
        self._offsets[first + 1 : last + 1] = start + part.offsets[1:]
        self._n_rows = last

    def joined(self) -> Ragged:
        return Ragged(self._values[: self._offsets[-1]], self._offsets)


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


def build_dataset(layout: DataLayout, log: Callable[[str], None]) -> CtrDataset:
    """Read and check all interaction files and the item table.

    Histories lose their padding and are stored once per distinct list, in the order of first
    appearance; rows keep the order of their files. Holds one batch of rows at its padded width at
    a time. The provenance tells counts, shares of labels, overlap of users, and cold items.
    Raises `DataError`, naming file, column and row, for the first fault that is found.
    """
    items = read_items(layout)
    log(f"{len(items):,} items in {layout.item_feature.name}")
    rows: dict[str, _Rows] = {}
    with contextlib.ExitStack() as stack:
        # All are opened first, so that a missing column shows before long reading.
        files = {
            name: stack.enter_context(open_parquet(getattr(layout, name), columns))
            for name, columns in _COLUMNS.items()
        }
        histories = _Histories(list(files.values()))
        for name, file in files.items():
            reader = _Reader(getattr(layout, name), _COLUMNS[name], items, layout.item_feature)
            rows[name] = reader.read(file, histories, log)
            log(f"{file.metadata.num_rows:,} rows in {getattr(layout, name).name}")
    distinct, index = distinct_lists(histories.joined())
    log(f"{len(distinct):,} distinct histories in {len(index):,} rows")
    dataset = CtrDataset(
        **_splits(rows, index),
        items=items,
        histories=distinct,
        fingerprint=fingerprint_dataset(layout),
    )
    return dataclasses.replace(dataset, provenance=_provenance(dataset, layout, rows))


def read_train_histories(
    layout: DataLayout, items: ItemTable, log: Callable[[str], None]
) -> Ragged:
    """Return the distinct histories of the train split alone, in the order of first appearance.

    They are checked, and stripped of their padding, as `build_dataset` does it; raises
    `DataError` likewise. This is what a learned fusion may read of the interactions.
    """
    columns = tuple(column for column in LABELLED_COLUMNS if column.name in ("item_id", "item_seq"))
    with open_parquet(layout.train, columns) as file:
        histories = _Histories([file])
        _Reader(layout.train, columns, items, layout.item_feature).read(file, histories, log)
    distinct, _ = distinct_lists(histories.joined())
    log(f"{len(distinct):,} distinct histories in {layout.train.name}")
    return distinct


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads and checks one interaction file batch by batch."""

    path: Path
    columns: tuple[Column, ...]
    items: ItemTable
    item_file: Path

    def read(
        self, file: pq.ParquetFile, histories: _Histories, log: Callable[[str], None]
    ) -> _Rows:
        """Read all rows; their histories go to the end of `histories`."""
        n_rows = file.metadata.num_rows
        names = [column.name for column in self.columns]
        numbers = {name: np.empty(n_rows, _DTYPES[name]) for name in names if name in _DTYPES}
        is_seen = np.zeros(int(self.items.item_id[-1]) + 1, dtype=bool)
        progress = Progress(log, self.path.name, n_rows)
        padding = PaddingCheck()
        n_with_target, first_row = 0, 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=names):
            blocks = {c.name: Block(self.path, c, first_row) for c in self.columns}
            for name, values in numbers.items():
                part = integers(batch.column(name), blocks[name])
                values[first_row : first_row + len(batch)] = part
            targets = numbers["item_id"][first_row : first_row + len(batch)]
            self._check_known(targets, np.arange(len(batch) + 1), blocks["item_id"])
            history = _history(batch.column("item_seq"), blocks["item_seq"], padding)
            self._check_known(history.values, history.offsets, blocks["item_seq"])
            is_seen[targets] = True
            is_seen[history.values] = True
            n_with_target += _n_with_target(history, targets)
            histories.append(history)
            first_row += len(batch)
            progress.advance(len(batch))
        if "ID" in numbers:
            check_distinct(numbers["ID"], Block(self.path, self.columns[names.index("ID")]))
        return _Rows(numbers, n_with_target, np.flatnonzero(is_seen))

    def _check_known(self, values: np.ndarray, offsets: np.ndarray, block: Block) -> None:
        check_known(values, offsets, self.items.item_id, block, self.item_file)


def _history(array: pa.Array, block: Block, padding: PaddingCheck) -> Ragged:
    values, offsets = integer_lists(array, block)
    padding.check(values, offsets, block)
    return without_zeros(values, offsets)


def _n_with_target(history: Ragged, targets: np.ndarray) -> int:
    """Return in how many rows the target item stands in the row's own history."""
    equal = np.zeros(len(history.values) + 1, dtype=np.int64)
    np.cumsum(history.values == np.repeat(targets, history.lengths), out=equal[1:])
    return int((equal[history.offsets[1:]] > equal[history.offsets[:-1]]).sum())


def _n_list_values(file: pq.ParquetFile) -> int:
    """Return how many values `item_seq` holds, padding included, as the file's footer says."""
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(c.num_values for c in columns if c.path_in_schema.startswith("item_seq."))


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
    train_users = np.unique(dataset.train.user_id)
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
        users, targets = np.unique(split.user_id), np.unique(split.item_id)
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
