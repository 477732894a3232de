"""Tables of item vectors, keyed by item id, which also say which items have a vector."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from mmctr_pipeline.data.ids import find, id_bytes, ids_from_arrow, ids_to_arrow
from mmctr_pipeline.files.parquet import naming_damage, read_parquet, write_parquet


@dataclasses.dataclass(frozen=True)
class VectorTable:
    """One vector per item. Join tables by id, never by position.

    `item_id` are the data's ids, `(N,)` integers or strings (NumPy's dtype `U`), distinct and
    ascending; the padding item has id 0 or the empty string. `vectors` is `(N, D) float32`;
    `present` is `(N,) bool`, False for items without this modality, whose vectors are all zeros.
    `identity` names the source of the vectors: encoder, weights hash and preprocessing, or
    transform. `provenance` is JSON-serialisable: the resolved configuration and counts.
    """

    item_id: np.ndarray
    vectors: np.ndarray
    present: np.ndarray
    identity: str
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        n_items, shape = len(self.item_id), self.vectors.shape
        if len(shape) != 2 or shape[0] != n_items or self.present.shape != (n_items,):
            raise ValueError(
                f"{n_items} ids with vectors of shape {shape} "
                f"and present of shape {self.present.shape}"
            )
        if (self.item_id[1:] <= self.item_id[:-1]).any():
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
        """Return the SHA-256 of `item_id`, `vectors` and `present`, regardless of their source."""
        digest = hashlib.sha256(f"{self.vectors.shape}".encode())
        digest.update(id_bytes(self.item_id))
        for array in (self.vectors, self.present):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def recording(self, **entries: Any) -> Self:
        """Return the same table with `entries` added to its provenance."""
        return dataclasses.replace(self, provenance={**self.provenance, **entries})

    def aligned_to(self, item_id: np.ndarray) -> "VectorTable":
        """Return a row for each of `item_id` (distinct, ascending).

        Ids that the table lacks get a vector of zeros and are not present.
        """
        position, found = find(item_id, self.item_id)
        rows = position[found]
        vectors = np.zeros((len(item_id), self.dim), dtype=np.float32)
        vectors[found] = self.vectors[rows]
        present = np.zeros(len(item_id), dtype=bool)
        present[found] = self.present[rows]
        return dataclasses.replace(self, item_id=item_id, vectors=vectors, present=present)

    def to_arrow(self) -> pa.Table:
        """Return the columns `item_id`, `vector` (fixed-size list) and `present`, with metadata."""
        flat = pa.array(np.ascontiguousarray(self.vectors, dtype=np.float32).reshape(-1))
        table = pa.table(
            {
                "item_id": ids_to_arrow(self.item_id),
                "vector": pa.FixedSizeListArray.from_arrays(flat, self.dim),
                "present": pa.array(self.present, pa.bool_()),
            }
        )
        return table.replace_schema_metadata(
            {"mmctr.identity": self.identity, "mmctr.provenance": json.dumps(self.provenance)}
        )

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Self:
        """Build from the table that `to_arrow` returned."""
        metadata = table.schema.metadata or {}
        column = table.column("vector").combine_chunks()
        vectors = column.flatten().to_numpy(zero_copy_only=False)
        return cls(
            item_id=ids_from_arrow(table.column("item_id")),
            vectors=vectors.reshape(len(column), column.type.list_size).astype(np.float32),
            present=table.column("present").to_numpy().astype(bool),
            identity=metadata.get(b"mmctr.identity", b"").decode(),
            provenance=json.loads(metadata.get(b"mmctr.provenance", b"{}")),
        )

    def write(self, path: Path) -> None:
        """Write to a parquet file with checksums; for atomic writes see `files.atomic`."""
        write_parquet(self.to_arrow(), path, raw=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a parquet file of the table that `to_arrow` returned; raises `DamagedFileError`."""
        table = read_parquet(path)
        with naming_damage(path):
            return cls.from_arrow(table)


@dataclasses.dataclass(frozen=True)
class ItemVectors:
    """Fused vectors of one catalogue, and its text and image vectors, which some models also read.

    `text` and `image` are None if the caller has only fused vectors.
    """

    fused: VectorTable
    text: VectorTable | None = None
    image: VectorTable | None = None

    def modality(self, name: str) -> VectorTable | None:
        """Return the vectors of `text` or `image`."""
        return {"text": self.text, "image": self.image}[name]

    @property
    def tables(self) -> dict[str, VectorTable]:
        """The tables that there are, by name: `fused`, `text`, `image`."""
        tables = {"fused": self.fused, "text": self.text, "image": self.image}
        return {name: table for name, table in tables.items() if table is not None}

    @property
    def identities(self) -> dict[str, str]:
        """Identity of each table."""
        return {name: table.identity for name, table in self.tables.items()}

    def content_hashes(self) -> dict[str, str]:
        """Return the content hash of each table."""
        return {name: table.content_hash() for name, table in self.tables.items()}
