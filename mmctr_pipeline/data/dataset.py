"""The train dataset: three splits, the item table, and each distinct history once."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from mmctr_pipeline.data.ids import IdMap, ids_from_arrow, ids_to_arrow
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.files.parquet import read_parquet, write_parquet


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of one split; all arrays have length N.

    `user_id`, `item_id` and `history` are int32: the table rows of user and item (`data.ids`), and
    the index of the history in `CtrDataset.histories`. `likes_level` and `views_level` are int8 in
    0..10. Train and valid have `label` (int8, 0 or 1); test has `row_id` (int64, the column `ID`),
    in the order of the test file.
    """

    user_id: np.ndarray
    item_id: np.ndarray
    history: np.ndarray
    likes_level: np.ndarray
    views_level: np.ndarray
    label: np.ndarray | None = None
    row_id: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.item_id)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns that this split has, by name."""
        return {name: values for name, values in vars(self).items() if values is not None}

    def take(self, rows: np.ndarray) -> "Split":
        """Return the rows at these positions or, for a boolean array, the rows where it is True."""
        return Split(**{name: values[rows] for name, values in self.columns.items()})


@dataclasses.dataclass(frozen=True)
class ItemTable:
    """M real items, without the padding row, by ascending id.

    `ids` are the data's ids, `(M,)`, int64 or strings (NumPy's dtype `U`); vectors and covers are
    found by them. `item_id` is the table row of each item, `(M,) int32`, equal to its id if the ids
    are dense integers (`data.ids`); splits and histories refer to it. `title` is an Arrow string
    array, null for items without a title; `tags` has the tag ids without padding; the two levels
    are int8 in 0..10.
    """

    ids: np.ndarray
    item_id: np.ndarray
    title: pa.Array
    tags: Ragged
    likes_level: np.ndarray
    views_level: np.ndarray

    def __len__(self) -> int:
        return len(self.item_id)

    @functools.cached_property
    def id_map(self) -> IdMap:
        """The table row of each of the data's ids."""
        is_identity = self.ids.dtype.kind != "U" and np.array_equal(self.ids, self.item_id)
        return IdMap(self.ids, is_identity)


@dataclasses.dataclass(frozen=True)
class CtrDataset:
    """Train, valid and test rows with their shared histories and the item table.

    `fingerprint` is a hash of the contents of the source files; `provenance` is JSON-serialisable
    (file names, counts). `users` has the data's user ids, or is None if they are themselves the
    table rows.
    """

    train: Split
    valid: Split
    test: Split
    items: ItemTable
    histories: Ragged
    fingerprint: str
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    users: IdMap | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name, in the order train, valid, test."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    @property
    def id_maps(self) -> dict[str, IdMap]:
        """The maps of `item_id` and `user_id`, unless every id in them is its own row."""
        maps = {"item_id": self.items.id_map, "user_id": self.users}
        return {name: each for name, each in maps.items() if each and not each.is_identity}

    @property
    def day(self) -> str:
        """The last day of logs by day, YYYY-MM-DD; empty for data with splits of their own."""
        return self.provenance.get("window", {}).get("day", "")

    @property
    def train_rows_by_day(self) -> dict[str, int]:
        """Number of train rows of each day of logs by day, ascending; empty for other data."""
        return dict(self.provenance.get("window", {}).get("train_rows", {}))

    @property
    def last_valid_day(self) -> Split:
        """The rows of the last valid day of logs by day; for other data, all valid rows."""
        counts = list(self.provenance.get("window", {}).get("valid_rows", {}).values())
        first = len(self.valid) - counts[-1] if counts else 0
        return self.valid.take(np.arange(first, len(self.valid)))

    @property
    def valid_days(self) -> list[str]:
        """The valid days of logs by day, YYYY-MM-DD, ascending; none for other data."""
        return list(self.provenance.get("window", {}).get("valid_days", []))

    @property
    def first_valid_day(self) -> str:
        """The first valid day of logs by day, YYYY-MM-DD; empty for other data."""
        return min(self.valid_days, default="")

    def write(self, folder: Path) -> None:
        """Write the tables as parquet files into an existing, empty folder.

        They are `train`, `valid`, `test`, `items`, `histories`, and `users` unless the ids of users
        are their table rows. `histories` is written last and records the checksums of the others.
        """
        items = vars(self.items)
        tables = {name: pa.table(split.columns) for name, split in self.splits.items()}
        tables["items"] = pa.table(
            {"id": ids_to_arrow(self.items.ids)}
            | {name: items[name] for name in ("item_id", "title")}
            | {"tags": self.items.tags.to_arrow()}
            | {name: items[name] for name in ("likes_level", "views_level")}
        )
        if self.users:
            columns = {"id": ids_to_arrow(self.users.ids), "user_id": self.users.rows}
            tables["users"] = pa.table(columns)
        checksums = {
            name: write_parquet(table, folder / f"{name}.parquet") for name, table in tables.items()
        }
        histories = pa.table({"items": self.histories.to_arrow()}).replace_schema_metadata(
            {
                "mmctr.fingerprint": self.fingerprint,
                "mmctr.provenance": json.dumps(self.provenance),
                "mmctr.checksums": json.dumps(checksums),
            }
        )
        write_parquet(histories, folder / "histories.parquet")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote; raises `DamagedFileError` if a file is damaged."""
        histories = read_parquet(folder / "histories.parquet")
        metadata = histories.schema.metadata or {}
        checksums = json.loads(metadata.get(b"mmctr.checksums", b"{}"))

        def read(name: str) -> pa.Table:
            return read_parquet(folder / f"{name}.parquet", expected=checksums.get(name))

        splits = {}
        for name in ("train", "valid", "test"):
            table = read(name)
            splits[name] = Split(**{c: table.column(c).to_numpy() for c in table.column_names})
        return cls(
            **splits,
            items=_items(read("items")),
            histories=Ragged.from_arrow(histories.column("items")),
            fingerprint=metadata.get(b"mmctr.fingerprint", b"").decode(),
            provenance=json.loads(metadata.get(b"mmctr.provenance", b"{}")),
            users=_users(read("users")) if "users" in checksums else None,
        )


def _items(table: pa.Table) -> ItemTable:
    # Earlier versions wrote no column `id`: every id was its own row.
    ids = table.column("id" if "id" in table.column_names else "item_id")
    return ItemTable(
        ids=ids_from_arrow(ids),
        item_id=table.column("item_id").to_numpy(),
        title=table.column("title").combine_chunks(),
        tags=Ragged.from_arrow(table.column("tags")),
        likes_level=table.column("likes_level").to_numpy(),
        views_level=table.column("views_level").to_numpy(),
    )


def _users(table: pa.Table) -> IdMap:
    return IdMap(ids_from_arrow(table.column("id")), is_identity=False)
