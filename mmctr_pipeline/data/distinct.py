"""Finding equal lists among millions, exactly and without a Python loop over them."""

import itertools

import numpy as np

from mmctr_pipeline.data.ragged import Ragged

_CHUNK_VALUES = 2_000_000


def distinct_lists(lists: Ragged, hash_bits: int = 64) -> tuple[Ragged, np.ndarray]:
    """Return the distinct lists by first appearance, and for each list which of them it equals.

    The second value is `(N,) int32`: `distinct[index[i]]` equals `lists[i]`. Lists are compared by
    a hash and then value by value, so that a collision costs time but never merges two lists;
    fewer `hash_bits` only make collisions likelier.
    """
    first = np.arange(len(lists))
    undecided = first.copy()
    seed = 0
    while len(undecided):
        keys = _hashes(lists, undecided, seed) >> np.uint64(64 - hash_bits)
        _, earliest, group = np.unique(keys, return_index=True, return_inverse=True)
        candidate = undecided[earliest[group]]
        # Each group's earliest list equals itself, so that every round decides some.
        equal = _are_equal(lists, undecided, candidate)
        first[undecided[equal]] = candidate[equal]
        undecided = undecided[~equal]
        seed += 1
    is_first = first == np.arange(len(lists))
    rank = np.cumsum(is_first, dtype=np.int32) - 1
    if is_first.all():
        return lists, rank
    return _take(lists, np.flatnonzero(is_first)), rank[first]


def distinct_numbers(numbers: np.ndarray) -> np.ndarray:
    """Return what `np.unique` returns for a row of integers."""
    # NumPy hashes integers, which takes longer than sorting them where millions are distinct.
    ascending = np.sort(numbers)
    is_new = np.ones(len(ascending), dtype=bool)
    is_new[1:] = ascending[1:] != ascending[:-1]
    return ascending[is_new]


def run_starts(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return where each run of equal lists begins, and the number of lists N, `(M + 1,) int64`.

    List i is `values[offsets[i]:offsets[i + 1]]`. Lists of differing length, as they are where
    nothing is padded, are not compared: each of them counts as a run of its own.
    """
    n_lists = len(offsets) - 1
    widths = np.diff(offsets)
    if n_lists < 2 or not widths[0] or (widths != widths[0]).any():
        return np.arange(n_lists + 1)
    table = values.reshape(n_lists, widths[0])
    changes = np.flatnonzero((table[1:] != table[:-1]).any(axis=1)) + 1
    return np.concatenate(([0], changes, [n_lists]))


def _hashes(lists: Ragged, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return a 64-bit hash of each list, of its values and their order, `(M,) uint64`."""
    hashes = np.empty(len(rows), dtype=np.uint64)
    for chunk in _chunks(lists, rows):
        part = lists.take(rows[chunk])
        position = np.arange(len(part.values)) - np.repeat(part.offsets[:-1], part.lengths)
        terms = _mixed(
            part.values.astype(np.uint64)
            + (position.astype(np.uint64) << np.uint64(32))
            + _mixed(np.array([seed + 1], dtype=np.uint64))
        )
        before = np.zeros(len(terms) + 1, dtype=np.uint64)
        np.cumsum(terms, out=before[1:])  # wraps around, and so does the difference
        hashes[chunk] = _mixed(before[part.offsets[1:]] - before[part.offsets[:-1]])
    return hashes


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Scatter `uint64` numbers: the finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _are_equal(lists: Ragged, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return for each pair of list numbers whether the two lists are equal, `(M,) bool`."""
    equal = lists.lengths[left] == lists.lengths[right]
    compared = np.flatnonzero(equal & (left != right))
    for chunk in _chunks(lists, left[compared]):
        pairs = compared[chunk]
        a, b = lists.take(left[pairs]), lists.take(right[pairs])
        differing = np.zeros(len(a.values) + 1, dtype=np.int64)
        np.cumsum(a.values != b.values, out=differing[1:])
        equal[pairs] = differing[a.offsets[1:]] == differing[a.offsets[:-1]]
    return equal


def _take(lists: Ragged, rows: np.ndarray) -> Ragged:
    """Return `lists.take(rows)` without temporary arrays of the size of all values."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(lists.lengths[rows], out=offsets[1:])
    values = np.empty(offsets[-1], dtype=np.int32)
    for chunk in _chunks(lists, rows):
        values[offsets[chunk.start] : offsets[chunk.stop]] = lists.take(rows[chunk]).values
    return Ragged(values, offsets)


def _chunks(lists: Ragged, rows: np.ndarray) -> list[slice]:
    """Return slices of `rows`, each with some `_CHUNK_VALUES` values or a single list."""
    if not len(rows):
        return []
    part = np.cumsum(lists.lengths[rows]) // _CHUNK_VALUES
    cuts = np.flatnonzero(np.diff(part)) + 1
    edges = [0, *cuts.tolist(), len(rows)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]
