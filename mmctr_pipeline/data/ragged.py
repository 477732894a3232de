"""Ragged integer lists: concatenated values plus offsets, without padding."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclasses.dataclass(frozen=True)
class Ragged:
    """N lists of int32; list i is `values[offsets[i]:offsets[i + 1]]`.

    `values` is `(T,) int32`; `offsets` is `(N + 1,) int64`, starts at 0 and never decreases.
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
            raise ValueError("offsets must never decrease")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self))[index]  # resolves negative indices, raises IndexError
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Length of each list, `(N,) int64`."""
        return np.diff(self.offsets)

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]]) -> Self:
        """Build from Python lists."""
        arrays = [np.asarray(element, dtype=np.int32) for element in lists]
        values = np.concatenate([np.zeros(0, dtype=np.int32), *arrays])
        return cls(values, offsets_from_lengths([len(array) for array in arrays]))

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray | pa.Array) -> Self:
        """Build from a list column of any integer type; a null list becomes an empty one."""
        array = column.cast(pa.large_list(pa.int32()))
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        values = array.flatten().to_numpy(zero_copy_only=False)
        return cls(values.astype(np.int32, copy=False), list_offsets(array))

    def to_arrow(self) -> pa.Array:
        """Return a `large_list<int32>` array of N lists."""
        return pa.LargeListArray.from_arrays(self.offsets, self.values)

    @classmethod
    def concatenate(cls, parts: Sequence["Ragged"]) -> Self:
        """Return the lists of one or more parts, in order."""
        return cls(
            np.concatenate([part.values for part in parts]),
            offsets_from_lengths(np.concatenate([part.lengths for part in parts])),
        )

    def take(self, indices: np.ndarray) -> "Ragged":
        """Return the lists at `indices` (`(M,)` integers), in that order, without a Python loop."""
        return self._slices(self.offsets[:-1][indices], self.lengths[indices])

    def newest(self, n: int) -> "Ragged":
        """Return the last `n` values of each list."""
        lengths = np.minimum(self.lengths, n)
        return self._slices(self.offsets[1:] - lengths, lengths)

    def left_padded(self, width: int) -> np.ndarray:
        """Return the last `width` values of each list, after zeros if it is shorter.

        The result is `(N, width) int64`.
        """
        newest = self.newest(width)
        padded = np.zeros((len(self), width), dtype=np.int64)
        padded[np.arange(width) >= width - newest.lengths[:, None]] = newest.values
        return padded

    def _slices(self, starts: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Return lists of `lengths[i]` values from `starts[i]` on."""
        offsets = offsets_from_lengths(lengths)
        position = np.repeat(starts - offsets[:-1], lengths)
        position += np.arange(offsets[-1])
        return Ragged(self.values[position], offsets)


def without_zeros(values: np.ndarray, offsets: np.ndarray) -> Ragged:
    """Return the lists `values[offsets[i]:offsets[i + 1]]` without their zeros."""
    values, offsets = stripped(values, offsets)
    return Ragged(values.astype(np.int32, copy=False), offsets)


def stripped(values: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Remove all zeros from the lists; return the values, in their type, and the new offsets."""
    kept = np.flatnonzero(values != 0)
    # Most values are padding, so looking up the offsets among the kept positions is faster than
    # counting through all values.
    return values[kept], np.searchsorted(kept, offsets)


def distinct_lists(lists: Ragged) -> tuple[Ragged, np.ndarray]:
    """Return the distinct lists by first appearance, and the index of each list among them.

    The index is `(N,) int32`: `distinct[index[i]]` equals `lists[i]`. Arrow compares the lists as
    bytes, exactly and without a Python loop over them.
    """
    n_bytes = lists.values.itemsize
    buffers = [None, pa.py_buffer(lists.offsets * n_bytes), pa.py_buffer(lists.values)]
    encoded = pa.Array.from_buffers(pa.large_binary(), len(lists), buffers).dictionary_encode()
    _, ends, values = encoded.dictionary.buffers()
    offsets = np.frombuffer(ends, np.int64, len(encoded.dictionary) + 1) // n_bytes
    distinct = Ragged(np.frombuffer(values, np.int32, int(offsets[-1])), offsets)
    return distinct, numpy_view(encoded.indices)


def run_starts(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the start of each run of equal lists, then the number of lists, `(M + 1,) int64`.

    List i is `values[offsets[i]:offsets[i + 1]]`. If the lists differ in length, they are unpadded
    and not compared: each list is then a run of its own.
    """
    n_lists = len(offsets) - 1
    widths = np.diff(offsets)
    if n_lists < 2 or not widths[0] or (widths != widths[0]).any():
        return np.arange(n_lists + 1)
    table = values.reshape(n_lists, widths[0])
    changes = np.flatnonzero((table[1:] != table[:-1]).any(axis=1)) + 1
    return np.concatenate(([0], changes, [n_lists]))


def offsets_from_lengths(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """Return the offsets of N lists, `(N + 1,) int64`, from their lengths."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def list_offsets(array: pa.Array) -> np.ndarray:
    """Return the offsets of a list array of any kind, `(N + 1,) int64`; a null list is empty."""
    lengths = pc.list_value_length(array)
    return offsets_from_lengths(numpy_view(lengths.fill_null(0) if lengths.null_count else lengths))


def numpy_view(array: pa.Array) -> np.ndarray:
    """Return integers without nulls as a NumPy array, without a copy.

    Arrow's own `to_numpy` imports pandas where it is installed, which is slow.
    """
    return np.from_dlpack(array)


def lists_containing(positions: np.ndarray | np.integer, offsets: np.ndarray) -> np.ndarray:
    """Return the number of the list that contains the value at each position, int64.

    List i has the values at `offsets[i]` to `offsets[i + 1] - 1`.
    """
    return np.searchsorted(offsets, positions, side="right") - 1
