"""Map the data's user and item ids, integers with gaps of any size or strings, to table rows."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmctr_pipeline.data.ragged import numpy_view

Ids: TypeAlias = np.ndarray | pa.Array
"""Ids of N rows: `(N,) int64`, or strings as an Arrow array of type `large_string`."""

MOST_ROWS_PER_ID = 2
"""Integer ids are their own rows if the largest is at most this times their number."""


@dataclasses.dataclass(frozen=True)
class IdMap:
    """The table row of each id; row 0 is the padding, which is 0 or the empty string in the data.

    `ids` is `(M,)`, int64 or strings (NumPy's dtype `U`), distinct, ascending and without the
    padding. With `is_identity`, an id is its own row; otherwise `ids[i]` has row i + 1.
    """

    ids: np.ndarray
    is_identity: bool

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or (self.ids[1:] <= self.ids[:-1]).any():
            raise ValueError("the ids of a map must be distinct and ascending")

    @classmethod
    def from_ids(cls, ids: np.ndarray) -> Self:
        """Map distinct ascending ids.

        Dense integers keep their values as rows, so that tables have the sizes that the publisher
        of the data states. Gaps between other integers take no memory.
        """
        is_integer = ids.dtype.kind != "U"
        is_identity = is_integer and int(ids.max(initial=0)) <= MOST_ROWS_PER_ID * len(ids)
        return cls(ids, is_identity)

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """Row of each of `ids`, `(M,) int32`, ascending."""
        if self.is_identity:
            return self.ids.astype(np.int32)
        return np.arange(1, len(self.ids) + 1, dtype=np.int32)

    @property
    def n_rows(self) -> int:
        """Number of rows of a table for these ids, including the padding row."""
        return 1 + int(self.rows.max(initial=0))

    def look_up(self, ids: Ids) -> np.ndarray:
        """Return the row of each id, `(N,) int32`; 0 for the padding and for unknown ids."""
        if isinstance(ids, pa.Array):
            if self.ids.dtype.kind != "U":
                return np.zeros(len(ids), np.int32)
            place = pc.index_in(ids, value_set=self._arrow_ids).fill_null(-1)
            return self._rows_and_padding[numpy_view(place)]
        if self.is_identity:
            row_I = self._row_of_integer
            is_within = ids.max(initial=0) < len(row_I)
            return row_I[ids if is_within else np.where(ids < len(row_I), ids, 0)]
        place_N, found_N = find(ids, self.ids)
        return np.where(found_N, self._rows_and_padding[place_N], np.int32(0))

    def ids_at(self, rows: np.ndarray) -> np.ndarray:
        """Return the id of each of `rows`, the padding id for row 0."""
        return rows if self.is_identity else with_padding(self.ids)[rows]

    @functools.cached_property
    def _row_of_integer(self) -> np.ndarray:
        row_I = np.zeros(self.n_rows, np.int32)
        row_I[self.rows] = self.rows
        return row_I

    @functools.cached_property
    def _rows_and_padding(self) -> np.ndarray:
        """The rows, then row 0, which is at index -1."""
        return np.append(self.rows, np.int32(0))

    @functools.cached_property
    def _arrow_ids(self) -> pa.Array:
        return pa.array(self.ids, pa.large_string())


def find(ids: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of each id in `among`, and whether it is there.

    `among` is distinct and ascending. Positions of absent ids have no meaning. A string never
    equals an integer.
    """
    if not len(among) or (ids.dtype.kind == "U") != (among.dtype.kind == "U"):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), dtype=bool)
    if ids.dtype.kind == "u":
        ids = ids.astype(np.int64)  # NumPy would compare uint64 and int64 as floats
    place_N = np.minimum(np.searchsorted(among, ids), len(among) - 1)
    return place_N, among[place_N] == ids


def with_padding(ids: np.ndarray) -> np.ndarray:
    """Return the padding id, 0 or the empty string, followed by `ids`."""
    return np.concatenate([np.zeros(1, ids.dtype), ids])


def map_columns(
    columns: Sequence[np.ndarray | pa.ChunkedArray],
) -> tuple[IdMap | None, np.ndarray]:
    """Map the ids of several columns together.

    Returns the map, and the table rows of all columns one after another, `(N,) int32`. The map is
    None if the ids are integers that are their own rows.

    Parameters
    ----------
    columns
        Columns of integers, or columns of dictionary-encoded strings.
    """
    integers = [column for column in columns if isinstance(column, np.ndarray)]
    if integers:
        ids_N = np.concatenate(integers)
        if _are_rows(ids_N):
            return None, ids_N.astype(np.int32)
        ids, place_N = np.unique(ids_N, return_inverse=True)
    else:
        encoded = [column for column in columns if isinstance(column, pa.ChunkedArray)]
        merged = pa.chunked_array([chunk for column in encoded for chunk in column.chunks])
        chunks = merged.unify_dictionaries().chunks
        texts = np.array(chunks[0].dictionary.to_pylist(), dtype=str)
        order = np.argsort(texts)
        ids, place = texts[order], np.argsort(order)
        place_N = place[np.concatenate([numpy_view(chunk.indices) for chunk in chunks])]
    return IdMap(ids, is_identity=False), (place_N + 1).astype(np.int32)


def _are_rows(ids_N: np.ndarray) -> bool:
    """Return whether `IdMap.from_ids` of the distinct ids is the identity, without sorting them."""
    largest = int(ids_N.max(initial=0))
    if largest > MOST_ROWS_PER_ID * len(ids_N):
        return False
    is_seen = np.zeros(largest + 1, dtype=bool)
    is_seen[ids_N] = True
    return largest <= MOST_ROWS_PER_ID * int(np.count_nonzero(is_seen))


def ids_to_arrow(ids: np.ndarray) -> pa.Array:
    """Return ids as an Arrow array of type int64 or string."""
    return pa.array(ids, pa.string() if ids.dtype.kind == "U" else pa.int64())


def ids_from_arrow(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column of ids without nulls as `(N,)` int64 or strings."""
    if pa.types.is_integer(column.type):
        return column.to_numpy().astype(np.int64, copy=False)
    return np.array(column.to_pylist(), dtype=str)


def id_bytes(ids: np.ndarray) -> bytes:
    """Return bytes that differ if the ids do, for a content hash."""
    if ids.dtype.kind == "U":
        lengths, utf8 = _utf8(ids)
        return lengths.tobytes() + utf8.tobytes()
    # Hashes of ids that fit into int32 stay the same as in earlier versions.
    fits = ids.max(initial=0) <= np.iinfo(np.int32).max
    return np.ascontiguousarray(ids, np.int32 if fits else np.int64).tobytes()


def ids_to_arrays(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return ids as arrays of integers, for a model file."""
    if ids.dtype.kind != "U":
        return {"integers": ids.astype(np.int64)}
    lengths, utf8 = _utf8(ids)
    return {"lengths": lengths, "utf8": utf8}


def ids_from_arrays(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the ids from the arrays of `ids_to_arrays`; raises `ValueError` for other arrays."""
    if arrays.keys() == {"integers"}:
        return arrays["integers"].astype(np.int64, casting="safe")
    if arrays.keys() != {"lengths", "utf8"}:
        found = ", ".join(arrays) or "none"
        raise ValueError(f"expected the array integers, or lengths and utf8; found: {found}")
    lengths, utf8 = arrays["lengths"], arrays["utf8"].tobytes()
    if (lengths < 1).any() or lengths.sum() != len(utf8):
        raise ValueError("the lengths of the ids do not add up to the length of their text")
    ends = np.cumsum(lengths)
    bounds = zip((ends - lengths).tolist(), ends.tolist(), strict=True)
    return np.array([utf8[start:end].decode() for start, end in bounds], dtype=str)


def _utf8(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of bytes of each string, `(M,) int64`, and all bytes, `uint8`."""
    texts = [text.encode() for text in ids.tolist()]
    lengths = np.array([len(text) for text in texts], np.int64)
    return lengths, np.frombuffer(b"".join(texts), np.uint8)
