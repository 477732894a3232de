"""Build the train dataset from the interaction files: checked, unpadded, each history once."""

import collections
import contextlib
import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmctr_pipeline.data.config import DEFAULT_DATA, DataConfig
from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.days import day_of_folder
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.fingerprint import fingerprint_files
from mmctr_pipeline.data.histories import (
    PaddingCheck,
    RowHistories,
    merge_histories,
    read_histories,
)
from mmctr_pipeline.data.id_columns import item_rows, read_ids, require_same_kind
from mmctr_pipeline.data.ids import IdMap, map_columns
from mmctr_pipeline.data.items import read_items
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.schemas import (
    HISTORY_COLUMNS,
    LABELLED_COLUMNS,
    ROW_ID,
    TEST_COLUMNS,
    Column,
)
from mmctr_pipeline.data.tables import Table, TableFile, open_table
from mmctr_pipeline.data.validation import Block, DataError, check_distinct, integers
from mmctr_pipeline.data.window import find_splits, find_test, log_window
from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.files.read_ahead import read_ahead

logger = logging.getLogger(__name__)

_BATCH_ROWS = 65_536
_COLUMNS = {"train": LABELLED_COLUMNS, "valid": LABELLED_COLUMNS, "test": TEST_COLUMNS}


@dataclasses.dataclass(frozen=True)
class _Rows:
    """One interaction file without its histories: number columns by name, each `(N,)`.

    The column `item_id` has table rows, not ids. `users` has the ids of users, int64 or
    dictionary-encoded strings, and is None if they were not read. `items_seen` has the table rows
    of all targets and history items.
    """

    numbers: dict[str, np.ndarray]
    users: np.ndarray | pa.ChunkedArray | None
    n_with_target_in_history: int
    items_seen: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers["item_id"])


def read_test_ids(layout: DataLayout, config: DataConfig = DEFAULT_DATA) -> np.ndarray:
    """Return the column `ID` of the test rows, `(N,) int64`, in their order.

    Raises as `find_splits` does, and `DataError`.
    """
    with open_table(find_test(layout, config), (ROW_ID,)) as file:
        array = file.read(["ID"]).column("ID").combine_chunks()
        return integers(array, Block(file.path, ROW_ID))


def build_dataset(layout: DataLayout, config: DataConfig = DEFAULT_DATA) -> CtrDataset:
    """Read and check all interaction files and the item table; map ids to table rows.

    For logs by day, `config` chooses the days. Histories lose their padding. Equal histories are
    stored once, in the order of their first appearance; rows keep the order of their files. At any
    time two batches of rows are in memory with their padding, one of them being read ahead. The
    provenance has file names, counts, lengths of histories, shares of labels, targets in their own
    history, overlap of users, cold items, the types of all columns, and the days of a window.
    Raises `DataError` naming file, column and row of the first fault, and as `find_splits` does.
    """
    tables = find_splits(layout, config)
    if tables.window:
        log_window(tables.window, config)
    items = read_items(layout)
    logger.info(f"{len(items):,} items in {layout.item_feature.name}")
    rows: dict[str, _Rows] = {}
    parts: list[RowHistories] = []
    with contextlib.ExitStack() as stack:
        # Open all files first, so that a missing column shows before minutes of reading.
        files = {
            name: stack.enter_context(open_table(table, _COLUMNS[name]))
            for name, table in tables.by_name.items()
        }
        for file in files.values():
            _check_kinds(file, layout, items)
            user_type = files["train"].schema.field("user_id").type
            user_id = file.schema.field("user_id")
            require_same_kind(file.path, user_id, user_type, f"user_id in {layout.train}")
        schema = {name: column_types(file) for name, file in files.items()}
        # Hashing runs in parallel with reading, as it needs only the bytes of the files.
        hashed: list[Path | Table] = [*tables.by_name.values(), layout.item_feature]
        hashing = stack.enter_context(ThreadPoolExecutor(1)).submit(fingerprint_files, hashed)
        for name, file in files.items():
            rows[name] = _read_rows(file, _COLUMNS[name], items, layout.item_feature, parts)
            logger.info(f"{len(rows[name]):,} rows in {file.label}")
            _check_labels(rows[name].numbers.get("label"), file)
    histories, index = merge_histories(parts)
    logger.info(f"{len(histories):,} distinct histories in {len(index):,} rows")
    users, user_id = map_columns([part.users for part in rows.values() if part.users is not None])
    ends = np.cumsum([len(part) for part in rows.values()])[:-1]
    by_split = zip(rows.items(), np.split(index, ends), np.split(user_id, ends), strict=True)
    splits: dict[str, Any] = {
        name: Split(history=history, user_id=user, **part.numbers)
        for (name, part), history, user in by_split
    }
    dataset = CtrDataset(
        **splits, items=items, histories=histories, fingerprint=hashing.result(), users=users
    )
    for name, id_map in dataset.id_maps.items():
        logger.info(f"{name}: {len(id_map.ids):,} sparse or string ids get the rows 1, 2, ...")
    provenance = {**_provenance(dataset, layout, rows), "schema": schema}
    if tables.window is not None:
        window = tables.window.to_mapping()
        counts = {f"{name}_rows": _rows_by_day(files[name]) for name in ("train", "valid")}
        provenance["window"] = window | counts
    return dataclasses.replace(dataset, provenance=provenance)


def read_train_histories(
    layout: DataLayout, items: ItemTable, config: DataConfig = DEFAULT_DATA
) -> Ragged:
    """Return the distinct histories of the train split, by first appearance.

    A learned fusion may read nothing else from the interactions. Histories are checked and stripped
    as by `build_dataset`. Raises as `build_dataset` does.
    """
    parts: list[RowHistories] = []
    with open_table(find_splits(layout, config).train, HISTORY_COLUMNS) as file:
        _check_kinds(file, layout, items)
        _read_rows(file, HISTORY_COLUMNS, items, layout.item_feature, parts)
    distinct, _ = merge_histories(parts)
    logger.info(f"{len(distinct):,} distinct histories in {file.label}")
    return distinct


def column_types(file: TableFile) -> dict[str, str]:
    """Return the type of each column, also of those that are not read."""
    return {field.name: str(field.type) for field in file.schema}


def _check_kinds(file: TableFile, layout: DataLayout, items: ItemTable) -> None:
    """Check that a file has item ids of the same kind as item_feature: integers or strings."""
    for name in ("item_id", "item_seq"):
        source = f"item_id in {layout.item_feature}"
        require_same_kind(file.path, file.schema.field(name), items.ids.dtype, source)


def _check_labels(label: np.ndarray | None, file: TableFile) -> None:
    """Check that the labels of a table, if it has any, are of both classes."""
    if label is not None and (label == label[0]).all():
        raise DataError(
            file.path,
            f"all {len(label):,} labels are {label[0]} in {file.label}, but a model needs rows "
            "with a click and rows without",
            "check how the file was exported",
            "label",
        )


def _read_rows(
    file: TableFile,
    columns: tuple[Column, ...],
    items: ItemTable,
    item_file: Path,
    histories: list[RowHistories],
) -> _Rows:
    """Read and check one interaction file batch by batch; append to `histories`."""
    id_map = items.id_map
    names = [column.name for column in columns]
    # Blocks are joined at the end, as a file may hold fewer rows than it claims.
    parts: dict[str, list[Any]] = {c.name: [] for c in columns if c.kind != "id_list"}
    is_seen = np.zeros(id_map.n_rows, dtype=bool)
    progress = Progress(logger, file.label, file.n_rows)
    padding = PaddingCheck()
    n_with_target, first_row = 0, 0
    with contextlib.closing(read_ahead(file.iter_batches(_BATCH_ROWS, names))) as batches:
        for batch in batches:
            blocks = {column.name: Block(file.path, column, first_row) for column in columns}
            for name, arrays in parts.items():
                arrays.append(_values(batch.column(name), blocks[name], id_map, item_file))
            targets, sequences = parts["item_id"][-1], batch.column("item_seq")
            history = read_histories(sequences, blocks["item_seq"], padding, id_map, item_file)
            is_seen[targets] = True
            is_seen[history.lists.values] = True
            n_with_target += history.count_with_target(targets)
            histories.append(history)
            first_row += len(batch)
            progress.advance(len(batch))
    users = _concatenate(parts.pop("user_id")) if "user_id" in parts else None
    numbers = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    if "ID" in numbers:
        check_distinct(numbers["ID"], Block(file.path, ROW_ID))
        numbers["row_id"] = numbers.pop("ID")
    return _Rows(numbers, users, n_with_target, np.flatnonzero(is_seen))


def _values(array: pa.Array, block: Block, items: IdMap, item_file: Path) -> np.ndarray | pa.Array:
    """Return a block of a column: table rows of items, user ids (strings encoded), or integers."""
    if block.column.name == "item_id":
        return item_rows(array, block, items, item_file)
    if block.column.name == "user_id":
        ids = read_ids(array, block)
        return ids.dictionary_encode() if isinstance(ids, pa.Array) else ids
    return integers(array, block).astype(block.column.dtype)


def _concatenate(blocks: list[np.ndarray] | list[pa.Array]) -> np.ndarray | pa.ChunkedArray:
    if isinstance(blocks[0], np.ndarray):
        return np.concatenate(blocks)
    return pa.chunked_array(blocks)


def _rows_by_day(file: TableFile) -> dict[str, int]:
    """Return the number of rows of each day of logs by day, in the order of the days."""
    counts: collections.Counter[str] = collections.Counter()
    for path, n_rows in file.rows_by_file.items():
        counts[day_of_folder(path.parent)] += n_rows
    return dict(counts)


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
    # With `return_counts`, `np.unique` sorts. Else it hashes, slower for millions of values.
    return np.unique(numbers, return_counts=True)[0]
