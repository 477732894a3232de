"""Tables of item vectors, keyed by item id, with a mask of the items that really have one."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


@dataclasses.dataclass(frozen=True)
class VectorTable:
    """One vector per item; nothing is aligned by position with any other table.

    `item_id` is `(N,) int32`, distinct, ascending; `vectors` is `(N, D) float32`; `present` is
    `(N,) bool` and False where the item lacks this modality (its vector is then all zeros).
    `identity` names what made the vectors: encoder, weights hash, preprocessing, or transform.
    `provenance` is free, JSON-serialisable: the resolved configuration and counts.
    """

    item_id: np.ndarray
    vectors: np.ndarray
    present: np.ndarray
    identity: str
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        n_items = len(self.item_id)
        if (
            self.vectors.ndim != 2
            or len(self.vectors) != n_items
            or self.present.shape != (n_items,)
        ):
            raise ValueError(
                f"{n_items} ids with vectors of shape {self.vectors.shape} "
                f"and a mask of shape {self.present.shape}"
            )
        if n_items > 1 and np.any(np.diff(self.item_id) <= 0):
            raise ValueError("item_id must be distinct and ascending")

    @property
    def dim(self) -> int:
        """Number of columns of `vectors`."""
        return self.vectors.shape[1]

    @property
    def norms(self) -> np.ndarray:
        """Length of each present vector, `(P,) float32`."""
        return np.linalg.norm(self.vectors[self.present], axis=1)

    def content_hash(self) -> str:
        """Return a SHA-256 of ids, vectors and mask, whatever made them."""
        digest = hashlib.sha256(f"{self.vectors.shape}".encode())
        for array in (self.item_id, self.vectors, self.present):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def recording(self, **entries: Any) -> Self:
        """Return the same table with `entries` added to its provenance."""
        return dataclasses.replace(self, provenance={**self.provenance, **entries})

    def aligned_to(self, item_id: np.ndarray) -> "VectorTable":
        """Return the rows for `item_id` (distinct, ascending); ids not in the table are masked."""
        position = np.searchsorted(self.item_id, item_id)
        position = np.minimum(position, max(len(self.item_id) - 1, 0))
        found = (
            self.item_id[position] == item_id if len(self.item_id) else np.zeros(len(item_id), bool)
        )
        vectors = np.zeros((len(item_id), self.dim), dtype=np.float32)
        vectors[found] = self.vectors[position[found]]
        present = np.zeros(len(item_id), dtype=bool)
        present[found] = self.present[position[found]]
        return dataclasses.replace(
            self, item_id=np.asarray(item_id, np.int32), vectors=vectors, present=present
        )

    def to_arrow(self) -> pa.Table:
        """Return columns `item_id`, `vector` (fixed-size list), `present`; identity as metadata."""
        flat = pa.array(np.ascontiguousarray(self.vectors, dtype=np.float32).reshape(-1))
        table = pa.table(
            {
                "item_id": pa.array(self.item_id, pa.int32()),
                "vector": pa.FixedSizeListArray.from_arrays(flat, self.dim),
                "present": pa.array(self.present, pa.bool_()),
            }
        )
        return table.replace_schema_metadata(
            {"mmctr.identity": self.identity, "mmctr.provenance": json.dumps(self.provenance)}
        )

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Self:
        """Inverse of `to_arrow`."""
        metadata = table.schema.metadata or {}
        column = table.column("vector").combine_chunks()
        vectors = column.flatten().to_numpy(zero_copy_only=False)
        return cls(
            item_id=table.column("item_id").to_numpy().astype(np.int32),
            vectors=vectors.reshape(len(column), column.type.list_size).astype(np.float32),
            present=table.column("present").to_numpy().astype(bool),
            identity=metadata.get(b"mmctr.identity", b"").decode(),
            provenance=json.loads(metadata.get(b"mmctr.provenance", b"{}")),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a parquet file written from `to_arrow`."""
        return cls.from_arrow(pq.read_table(path))


@dataclasses.dataclass(frozen=True)
class ItemVectors:
    """The vectors of one catalogue: fused, and those of each modality that some models also read.

    `text` and `image` are None where the caller has only fused vectors.
    """

    fused: VectorTable
    text: VectorTable | None = None
    image: VectorTable | None = None

    def modality(self, name: str) -> VectorTable | None:
        """Return the vectors of `text` or `image`."""
        return {"text": self.text, "image": self.image}[name]
