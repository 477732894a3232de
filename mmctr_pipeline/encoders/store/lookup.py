"""The vectors that are known so far of the contents that a run asks for."""

from collections.abc import Mapping, Sequence

import numpy as np

from mmctr_pipeline.encoders.store.shards import KEY, Notes, StoredShard

_UNKNOWN, _FAILED, _KNOWN = 0, 1, 2


class PartialLookup:
    """Fills up from stored shards and from what is newly encoded.

    `distinct` is `(n,) KEY`, the contents asked for in ascending order, and `first` `(n,) int64`
    the first position of each. Vectors are put at once where the caller wants them, so that there
    is no second copy of them all.
    """

    def __init__(self, contents: Sequence[bytes]) -> None:
        wrong = next((row for row, key in enumerate(contents) if len(key) != KEY.itemsize), None)
        if wrong is not None:
            raise ValueError(
                f"content {wrong} has a key of {len(contents[wrong])} bytes; "
                f"a SHA-256 digest has {KEY.itemsize}"
            )
        keys = np.frombuffer(b"".join(contents), KEY)
        self.distinct, self.first, self._which = np.unique(
            keys, return_index=True, return_inverse=True
        )
        self.notes: list[Notes] = []
        self._state = np.full(len(self.distinct), _UNKNOWN, np.int8)
        self._vectors: np.ndarray | None = None
        self._reasons: dict[int, str] = {}

    @property
    def missing(self) -> np.ndarray:
        """Rows of `distinct` of which neither a vector nor a failure is known, ascending."""
        return np.flatnonzero(self._state == _UNKNOWN)

    @property
    def n_known(self) -> int:
        """How many of `distinct` have a vector."""
        return int(np.sum(self._state == _KNOWN))

    @property
    def n_failed(self) -> int:
        """How many of `distinct` are known to have none."""
        return int(np.sum(self._state == _FAILED))

    def take(self, stored: StoredShard, reader: str) -> None:
        """Take what is wanted of a stored shard: what has no vector yet, and `reader`'s failures.

        Raises `DamagedFileError`, having taken nothing.
        """
        row = np.searchsorted(self.distinct, stored.contents)
        row = np.minimum(row, len(self.distinct) - 1)
        asked = self.distinct[row] == stored.contents
        wanted = asked & stored.has_vector & (self._state[row] != _KNOWN)
        for at, vectors in stored.read_vectors(wanted):
            self._place(row[at], vectors, str(stored.path))
        failed = asked & ~stored.has_vector & (self._state[row] == _UNKNOWN)
        failed &= stored.reader == reader
        self._state[row[wanted]] = _KNOWN
        self._fail({int(row[at]): stored.reasons[int(at)] for at in np.flatnonzero(failed)})
        if np.any(wanted | failed):
            self.notes += stored.notes

    def add(
        self, rows: np.ndarray, vectors: np.ndarray, reasons: Mapping[int, str], notes: Notes
    ) -> None:
        """Take what was newly encoded for `rows` of `distinct`; `reasons` is by place in `rows`."""
        self._place(rows, vectors, "the encoder")
        self._state[rows] = _KNOWN
        self._fail({int(rows[at]): reason for at, reason in reasons.items()})
        self.notes.append(notes)

    def are_settled(self, rows: np.ndarray) -> bool:
        """Say whether a vector or a failure is known of all these rows of `distinct`."""
        return bool(np.all(self._state[rows] != _UNKNOWN))

    def vectors(self) -> np.ndarray:
        """Return `(N, D) float32` by position, zeros where there is none."""
        if self._vectors is None:
            return np.zeros((len(self._which), 0), np.float32)
        # A shard that turned out damaged may have left something there.
        self._vectors[self.first[self._state != _KNOWN]] = 0
        source = self.first[self._which]
        repeats = np.flatnonzero(source != np.arange(len(source)))
        self._vectors[repeats] = self._vectors[source[repeats]]
        return self._vectors

    def reasons(self) -> dict[int, str]:
        """Return by position why there is no vector."""
        failed = (self._state == _FAILED)[self._which]
        return {
            int(position): self._reasons[int(self._which[position])]
            for position in np.flatnonzero(failed)
        }

    def _place(self, rows: np.ndarray, vectors: np.ndarray, source: str) -> None:
        if self._vectors is None:
            self._vectors = np.zeros((len(self._which), vectors.shape[1]), np.float32)
        if vectors.shape[1] != self._vectors.shape[1]:
            raise ValueError(
                f"vectors of width {vectors.shape[1]} from {source}, of width "
                f"{self._vectors.shape[1]} before. Fix: let the encoder's identity name all that "
                "its vectors depend on"
            )
        self._vectors[self.first[rows]] = vectors

    def _fail(self, reasons: dict[int, str]) -> None:
        self._state[list(reasons)] = _FAILED
        self._reasons |= reasons
