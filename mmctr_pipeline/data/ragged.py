"""Ragged integer lists: values end to end plus offsets, without padding."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np
import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class Ragged:
    """N lists of int32, list i being `values[offsets[i]:offsets[i + 1]]`.

    `values` is `(T,) int32`, `offsets` is `(N + 1,) int64` starting at 0 and never falling.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        if self.values.dtype != np.int32 or self.offsets.dtype != np.int64:
            raise TypeError(
                f"expected int32 values and int64 offsets, got {self.values.dtype} "
                f"and {self.offsets.dtype}"
            )
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise ValueError("offsets must run from 0 to the number of values")
        if np.any(np.diff(self.offsets) < 0):
            raise ValueError("offsets must never fall")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self))[index]  # counts from the end where negative, refuses the rest
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Length of each list, `(N,) int64`."""
        return np.diff(self.offsets)

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]]) -> Self:
        """Build from Python lists."""
        arrays = [np.asarray(element, dtype=np.int32) for element in lists]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        values = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)
        return cls(values.astype(np.int32, copy=False), offsets)

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray | pa.Array) -> Self:
        """Build from a list column of any integer type; a null list counts as an empty one."""
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        values, lengths = [], []
        for chunk in chunks:
            chunk = chunk.cast(pa.large_list(pa.int32())).fill_null([])
            lengths.append(np.diff(chunk.offsets.to_numpy()))
            values.append(chunk.flatten().to_numpy(zero_copy_only=False))
        offsets = np.zeros(sum(map(len, lengths)) + 1, dtype=np.int64)
        if lengths:
            np.cumsum(np.concatenate(lengths), out=offsets[1:])
        flat = np.concatenate(values) if values else np.zeros(0, dtype=np.int32)
        return cls(flat.astype(np.int32, copy=False), offsets)

    def to_arrow(self) -> pa.Array:
        """Return a `large_list<int32>` array of N lists."""
        return pa.LargeListArray.from_arrays(self.offsets, self.values)

    def take(self, indices: np.ndarray) -> "Ragged":
        """Return the lists at `indices` (`(M,)` integers), in that order, without a Python loop."""
        lengths = self.lengths[indices]
        offsets = np.zeros(len(indices) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        starts = np.repeat(self.offsets[:-1][indices] - offsets[:-1], lengths)
        return Ragged(self.values[starts + np.arange(offsets[-1])], offsets)

    def newest(self, n: int) -> "Ragged":
        """Return each list without all but its last `n` values."""
        offsets = np.zeros_like(self.offsets)
        np.cumsum(np.minimum(self.lengths, n), out=offsets[1:])
        starts = np.repeat(self.offsets[1:] - offsets[1:], np.diff(offsets))
        return Ragged(self.values[starts + np.arange(offsets[-1])], offsets)


def rows_of(positions: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return which list holds the value at each of `positions`, `(P,) int64`.

    List i holds the values at `offsets[i]` to `offsets[i + 1] - 1`.
    """
    return np.searchsorted(offsets, positions, side="right") - 1
