"""The train dataset: three splits, the item table, and each distinct history once."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.ragged import Ragged


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of one split; all arrays have length N.

    `user_id`, `item_id` and `history` are int32 (`history` indexes `CtrDataset.histories`);
    `likes_level` and `views_level` are int8 in 0..10. Train and valid have `label` (int8, 0 or 1);
    test has `row_id` (int64, the column `ID`), in the order of the test file.
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
        """Return the rows at the given positions, or where the given boolean mask is true."""
        return Split(**{name: values[rows] for name, values in self.columns.items()})


@dataclasses.dataclass(frozen=True)
class ItemTable:
    """M real items, without the padding row; `item_id` is `(M,) int32`, distinct and ascending.

    `title` is an Arrow string array, null for items without a title; `tags` has the tag ids without
    padding; the two levels are int8 in 0..10.
    """

    item_id: np.ndarray
    title: pa.Array
    tags: Ragged
    likes_level: np.ndarray
    views_level: np.ndarray

    def __len__(self) -> int:
        return len(self.item_id)


@dataclasses.dataclass(frozen=True)
class CtrDataset:
    """Train, valid and test rows with their shared histories and the item table.

    `fingerprint` is a hash of the contents of the source files; `provenance` is JSON-serialisable
    (file names, counts).
    """

    train: Split
    valid: Split
    test: Split
    items: ItemTable
    histories: Ragged
    fingerprint: str
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name, in the order train, valid, test."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    def write(self, folder: Path) -> None:
        """Write `{train,valid,test,items,histories}.parquet` into an existing, empty folder."""
        for name, split in self.splits.items():
            pq.write_table(pa.table(split.columns), folder / f"{name}.parquet")
        items = pa.table({**vars(self.items), "tags": self.items.tags.to_arrow()})
        pq.write_table(items, folder / "items.parquet")
        histories = pa.table({"items": self.histories.to_arrow()}).replace_schema_metadata(
            {"mmctr.fingerprint": self.fingerprint, "mmctr.provenance": json.dumps(self.provenance)}
        )
        pq.write_table(histories, folder / "histories.parquet")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote."""
        splits = {}
        for name in ("train", "valid", "test"):
            table = pq.read_table(folder / f"{name}.parquet")
            splits[name] = Split(**{c: table.column(c).to_numpy() for c in table.column_names})
        items = pq.read_table(folder / "items.parquet")
        histories = pq.read_table(folder / "histories.parquet")
        metadata = histories.schema.metadata or {}
        return cls(
            **splits,
            items=ItemTable(
                item_id=items.column("item_id").to_numpy(),
                title=items.column("title").combine_chunks(),
                tags=Ragged.from_arrow(items.column("tags")),
                likes_level=items.column("likes_level").to_numpy(),
                views_level=items.column("views_level").to_numpy(),
            ),
            histories=Ragged.from_arrow(histories.column("items")),
            fingerprint=metadata.get(b"mmctr.fingerprint", b"").decode(),
            provenance=json.loads(metadata.get(b"mmctr.provenance", b"{}")),
        )
