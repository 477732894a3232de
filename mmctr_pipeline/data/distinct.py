"""Finds equal lists among millions, exactly and without a Python loop over them."""

import itertools

import numpy as np

from mmctr_pipeline.data.ragged import Ragged, offsets_from_lengths

_CHUNK_VALUES = 2_000_000


def distinct_lists(lists: Ragged, hash_bits: int = 64) -> tuple[Ragged, np.ndarray]:
    """Return the distinct lists by first appearance, and the index of each list among them.

    The index is `(N,) int32`: `distinct[index[i]]` equals `lists[i]`. Lists are compared by a hash
    and then value by value: a collision costs time but never merges two lists. Fewer `hash_bits`
    make collisions more likely.
    """
    first = np.arange(len(lists))
    undecided = first.copy()
    for seed in itertools.count():
        keys = _hashes(lists, seed)[undecided] >> np.uint64(64 - hash_bits)
        _, earliest, group = np.unique(keys, return_index=True, return_inverse=True)
        candidate = undecided[earliest[group]]
        # The earliest list of each group equals itself, so every round decides some.
        equal = _are_equal(lists, undecided, candidate)
        first[undecided[equal]] = candidate[equal]
        undecided = undecided[~equal]
        if not len(undecided):
            break
    is_first = first == np.arange(len(lists))
    index = np.cumsum(is_first, dtype=np.int32) - 1
    if is_first.all():
        return lists, index
    values = lists.values[np.repeat(is_first, lists.lengths)]
    return Ragged(values, offsets_from_lengths(lists.lengths[is_first])), index[first]


def run_starts(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the start of each run of equal lists, then the number of lists, `(M + 1,) int64`.

    List i is `values[offsets[i]:offsets[i + 1]]`. Lists of differing lengths, which are unpadded,
    are not compared; each of them is a run of its own.
    """
    n_lists = len(offsets) - 1
    widths = np.diff(offsets)
    if n_lists < 2 or not widths[0] or (widths != widths[0]).any():
        return np.arange(n_lists + 1)
    table = values.reshape(n_lists, widths[0])
    changes = np.flatnonzero((table[1:] != table[:-1]).any(axis=1)) + 1
    return np.concatenate(([0], changes, [n_lists]))


def _hashes(lists: Ragged, seed: int) -> np.ndarray:
    """Return a 64-bit hash of the values of each list and their order, `(N,) uint64`."""
    hashes = np.empty(len(lists), dtype=np.uint64)
    salt = _mixed(np.array([seed + 1], dtype=np.uint64))
    for chunk in _chunks(lists.lengths):
        offsets = lists.offsets[chunk.start : chunk.stop + 1]
        values = lists.values[offsets[0] : offsets[-1]].astype(np.uint64)
        position = np.arange(offsets[0], offsets[-1])
        position -= np.repeat(offsets[:-1], np.diff(offsets))
        terms = _mixed(values + (position.astype(np.uint64) << np.uint64(32)) + salt)
        sums = np.zeros(len(terms) + 1, dtype=np.uint64)
        np.cumsum(terms, out=sums[1:])  # wraps around, and so does the difference
        hashes[chunk] = _mixed(np.diff(sums[offsets - offsets[0]]))
    return hashes


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Scatter `uint64` numbers with splitmix64's finaliser (Steele, Lea and Flood, 2014)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _are_equal(lists: Ragged, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return for each pair of list numbers whether the two lists are equal, `(M,) bool`."""
    equal = lists.lengths[left] == lists.lengths[right]
    compared = np.flatnonzero(equal & (left != right))
    for chunk in _chunks(lists.lengths[left[compared]]):
        pairs = compared[chunk]
        a, b = lists.take(left[pairs]), lists.take(right[pairs])
        differing = offsets_from_lengths(a.values != b.values)
        equal[pairs] = differing[a.offsets[1:]] == differing[a.offsets[:-1]]
    return equal


def _chunks(lengths: np.ndarray) -> list[slice]:
    """Return slices of lists, each with about `_CHUNK_VALUES` values or a single list."""
    cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // _CHUNK_VALUES)) + 1
    edges = [0, *cuts.tolist(), len(lengths)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]
