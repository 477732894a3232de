"""The vectors found so far for the contents of one request."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mmctr_pipeline.encoders.store.shards import KEY, Notes, StoredShard, find_keys

_UNKNOWN, _FAILED, _KNOWN = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class StoreResult:
    """The vectors of all requested contents, in their order.

    `vectors` is `(N, D) float32`, zeros where `reasons` (by position) says why a vector is
    missing, and `(0, 0)` if nothing was requested. Each distinct content counts once: its vector
    was encoded by this call or reused, or it failed, now or earlier. `notes` are those of the
    shards used.
    """

    vectors: np.ndarray
    reasons: dict[int, str]
    n_encoded: int
    n_reused: int
    n_failed: int
    notes: list[Notes]


class PartialLookup:
    """Collects vectors and failures from stored shards and from newly encoded ones.

    `distinct` is `(n,) KEY`, the requested contents in ascending order, and `first` `(n,) int64`
    the first position of each. Vectors are placed directly in the result, so that they are held
    in memory only once.
    """

    def __init__(self, contents: Sequence[bytes]) -> None:
        wrong = next((row for row, key in enumerate(contents) if len(key) != KEY.itemsize), None)
        if wrong is not None:
            raise ValueError(
                f"content {wrong} has a key of {len(contents[wrong])} bytes; "
                f"a SHA-256 digest has {KEY.itemsize}"
            )
        keys = np.frombuffer(b"".join(contents), KEY)
        self.distinct, self.first, self._inverse = np.unique(
            keys, return_index=True, return_inverse=True
        )
        self._notes: list[Notes] = []
        self._n_encoded = 0
        self._state = np.full(len(self.distinct), _UNKNOWN, np.int8)
        self._reasons = np.full(len(self.distinct), None, object)
        self._vectors: np.ndarray | None = None

    @property
    def missing(self) -> np.ndarray:
        """Rows of `distinct` with neither a vector nor a failure, ascending."""
        return np.flatnonzero(self._state == _UNKNOWN)

    def are_settled(self, rows: np.ndarray) -> bool:
        """Return whether all these rows of `distinct` have a vector or a failure."""
        return bool(np.all(self._state[rows] != _UNKNOWN))

    def take(self, stored: StoredShard, reader: str) -> None:
        """Take from a stored shard the vectors still missing, and the failures of `reader`.

        Raises `DamagedFileError`; nothing is taken then.
        """
        row, is_requested = find_keys(stored.contents, self.distinct)
        wanted = is_requested & stored.has_vector & (self._state[row] != _KNOWN)
        failed = is_requested & ~stored.has_vector & (self._state[row] == _UNKNOWN)
        failed &= stored.reader == reader
        if wanted.any():
            self._place(row[wanted], stored.read_vectors()[wanted], str(stored.path))
        self._state[row[failed]] = _FAILED
        self._reasons[row[failed]] = stored.reasons[failed]
        if np.any(wanted | failed):
            self._notes += stored.notes

    def add(
        self, rows: np.ndarray, vectors: np.ndarray, reasons: Mapping[int, str], notes: Notes
    ) -> None:
        """Add newly encoded vectors.

        Parameters
        ----------
        rows
            The rows of `distinct` that were encoded, `(m,) int64`.
        vectors
            Their vectors, `(m, D) float32`, zeros for failures.
        reasons
            Why a vector is missing, by position in `rows`.
        notes
            The encoder's notes.
        """
        self._place(rows, vectors, "the encoder")
        failed = rows[list(reasons)]
        self._state[failed] = _FAILED
        self._reasons[failed] = list(reasons.values())
        self._n_encoded += len(rows) - len(failed)
        self._notes.append(notes)

    def result(self) -> StoreResult:
        """Return what was collected; rows without a vector are zeros."""
        vectors = self._vectors
        if vectors is None:
            vectors = np.zeros((len(self._inverse), 0), np.float32)
        source = self.first[self._inverse]
        repeats = np.flatnonzero(source != np.arange(len(source)))
        vectors[repeats] = vectors[source[repeats]]
        failed = np.flatnonzero((self._state == _FAILED)[self._inverse])
        return StoreResult(
            vectors=vectors,
            reasons={int(at): self._reasons[self._inverse[at]] for at in failed},
            n_encoded=self._n_encoded,
            n_reused=int(np.sum(self._state == _KNOWN)) - self._n_encoded,
            n_failed=int(np.sum(self._state == _FAILED)),
            notes=self._notes,
        )

    def _place(self, rows: np.ndarray, vectors: np.ndarray, source: str) -> None:
        if self._vectors is None:
            self._vectors = np.zeros((len(self._inverse), vectors.shape[1]), np.float32)
        if vectors.shape[1] != self._vectors.shape[1]:
            raise ValueError(
                f"vectors of width {vectors.shape[1]} from {source}, of width "
                f"{self._vectors.shape[1]} before. Fix: let the encoder's identity name everything "
                "that its vectors depend on"
            )
        self._vectors[self.first[rows]] = vectors
        self._state[rows] = _KNOWN
