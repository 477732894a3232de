"""The vectors found so far for the contents of one request."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmctr_pipeline.encoders.store.parquet_files import KEY, Notes, StoredShard, find_keys

_UNKNOWN, _FAILED, _KNOWN = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class StoreResult:
    """The vectors of all requested contents, in their order.

    `vectors` is `(N, D) float32`, or `(0, 0)` if nothing was requested. `reasons` says by position
    why a vector is missing; that row is zeros. Of the distinct contents with a vector, `n_encoded`
    counts those that this call encoded, and `n_reused` those stored before. `notes` are those of
    the shards used.
    """

    vectors: np.ndarray
    reasons: dict[int, str]
    n_encoded: int
    n_reused: int
    notes: list[Notes]


class PartialLookup:
    """Collects vectors and failures from stored shards.

    `distinct` is `(n,) KEY`, the requested contents in ascending order, and `first` `(n,) int64`
    the first position of each. `n_encoded` counts the vectors that were not stored before. Vectors
    are written directly into the result, so memory holds them only once.
    """

    def __init__(self, contents: Sequence[bytes]) -> None:
        for row, key in enumerate(contents):
            if len(key) != KEY.itemsize:
                raise ValueError(f"content {row} is {len(key)} bytes long; a SHA-256 digest has 32")
        keys = np.frombuffer(b"".join(contents), KEY)
        self.distinct, self.first, self._inverse = np.unique(
            keys, return_index=True, return_inverse=True
        )
        self.n_encoded = 0
        self._notes: list[Notes] = []
        self._state = np.full(len(self.distinct), _UNKNOWN, np.int8)
        self._reasons = np.full(len(self.distinct), None, object)
        self._vectors: np.ndarray | None = None

    @property
    def missing(self) -> np.ndarray:
        """Rows of `distinct` with neither a vector nor a failure, ascending."""
        return np.flatnonzero(self._state == _UNKNOWN)

    def take(self, stored: StoredShard, reader: str) -> None:
        """Take the missing vectors from a stored shard, and the failures of the same `reader`.

        Raises `DamagedFileError` before anything is taken.
        """
        row, is_requested = find_keys(stored.contents, self.distinct)
        wanted = is_requested & stored.has_vector & (self._state[row] != _KNOWN)
        failed = is_requested & ~stored.has_vector & (self._state[row] == _UNKNOWN)
        failed &= stored.reader == reader
        if wanted.any():
            vectors = stored.read_vectors()[wanted]
            self.require_width(stored.width, str(stored.path))
            if self._vectors is None:
                self._vectors = np.zeros((len(self._inverse), stored.width), np.float32)
            self._vectors[self.first[row[wanted]]] = vectors
        self._state[row[wanted]] = _KNOWN
        self._state[row[failed]] = _FAILED
        self._reasons[row[failed]] = stored.reasons[failed]
        if np.any(wanted | failed):
            self._notes += stored.notes

    def require_width(self, width: int, source: str) -> None:
        """Raise `ValueError` if vectors from `source` have another `width` than earlier vectors."""
        if self._vectors is not None and width != self._vectors.shape[1]:
            raise ValueError(
                f"width {width} from {source}, but earlier vectors have width "
                f"{self._vectors.shape[1]}. Fix: let the encoder's identity name everything that "
                "its vectors depend on"
            )

    def result(self) -> StoreResult:
        """Return what was collected."""
        vectors = self._vectors
        if vectors is None:
            vectors = np.zeros((len(self._inverse), 0), np.float32)
        source = self.first[self._inverse]
        repeats = np.flatnonzero(source != np.arange(len(source)))
        vectors[repeats] = vectors[source[repeats]]
        failed = np.flatnonzero((self._state == _FAILED)[self._inverse])
        return StoreResult(
            vectors=vectors,
            reasons={int(row): self._reasons[self._inverse[row]] for row in failed},
            n_encoded=self.n_encoded,
            n_reused=int(np.sum(self._state == _KNOWN)) - self.n_encoded,
            notes=self._notes,
        )
