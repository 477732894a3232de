"""The vector store: keeps each encoding under its content's hash and its encoder's identity.

Files are `storage/vectors/<encoder>/<shard>.parquet` (see `parquet_files`). Missing contents are
sorted by hash, divided into shards, and encoded; each shard is written as soon as it is complete.
The division does not depend on which of these shards exist already. So a run that was killed and
started again encodes exactly the remaining shards, and concurrent runs share them.
"""

import contextlib
import dataclasses
import datetime
import logging
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mmctr_pipeline.encoders.store.lookup import PartialLookup, StoreResult
from mmctr_pipeline.encoders.store.parquet_files import (
    Notes,
    encoder_folder,
    open_shard,
    record_use,
    shard_name,
    shard_paths,
    shard_table,
    write_shard,
)
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.files.progress import Advance, Progress

logger = logging.getLogger(__name__)

FOLDER_LOCK = ".lock"
"""Every run that uses an encoder's folder holds this lock shared, so pruning skips the folder."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """The vectors of some contents as the encoder returns them, `(n, D) float32`.

    `reasons` says, by row, why a content has no vector; the row itself is then ignored. `notes`
    are stored with the shard.
    """

    vectors: np.ndarray
    reasons: dict[int, str] = dataclasses.field(default_factory=dict)
    notes: Notes = dataclasses.field(default_factory=dict)


EncodeShard = Callable[[np.ndarray, Advance], Shard]
"""Encodes the contents at `(n,) int64` positions, sorted by the hashes of the contents.

It may count contents as it goes; the rest is counted when it returns.
"""

EncodeTogether = Callable[[Sequence[np.ndarray]], Iterator[tuple[int, Shard]]]
"""Encodes several shards, each given as for `EncodeShard`, at the same time.

Yields the number of a shard in the sequence, and its vectors, in the order in which they are ready.
"""

_MOST_TOGETHER = 8192
"""Most shards that are encoded together: their contents may all be in memory at once."""


def utc_now() -> datetime.datetime:
    """Return the current time in UTC."""
    return datetime.datetime.now(datetime.UTC)


class VectorStore:
    """A folder of stored encodings, which any number of processes may use at the same time."""

    def __init__(self, folder: Path, now: Callable[[], datetime.datetime] = utc_now) -> None:
        self._folder = folder
        self._now = now

    def get_or_encode(
        self,
        identity: str,
        contents: Sequence[bytes],
        encode: EncodeShard,
        *,
        shard_size: int,
        reader: str,
        unit: str = "contents",
        encode_together: EncodeTogether | None = None,
    ) -> StoreResult:
        """Return the vectors of `contents`, encoding each distinct content that is not stored.

        Where several shards hold a content, a vector is preferred to a failure, and among vectors
        the shard whose file name comes first. A damaged shard file is logged and renamed to end in
        `.damaged` (for diagnosis), and its contents are encoded again. When processes request the
        same contents at once, only one encodes each shard.

        Raises `ValueError` for a content that is not a digest, and if `encode` returns a wrong
        number of vectors, another width than before, or values that are not finite. Such a shard
        is not stored.

        Parameters
        ----------
        identity
            Names the encoder and everything else that its vectors depend on.
        contents
            SHA-256 digests, which may repeat.
        encode
            Encodes missing contents.
        shard_size
            The most contents per call of `encode`.
        reader
            Name and version of the program that reads the contents. When it changes, contents
            stored as failures are tried again.
        unit
            The plural noun for contents in the log.
        encode_together
            Encodes the missing contents in the place of `encode`.
        """
        if shard_size < 1:
            raise ValueError(f"shard_size is {shard_size}; it must be at least 1")
        lookup = PartialLookup(contents)
        if len(lookup.distinct):
            folder = self._folder / encoder_folder(identity)
            with locked(folder / FOLDER_LOCK, shared=True):
                # Recorded at the start, so that an interrupted run counts as use too.
                record_use(folder, lookup.distinct, self._now().date())
                run = _Run(folder, identity, reader, encode, encode_together, lookup)
                for path in shard_paths(folder):
                    run.take(path)
                run.encode_missing(shard_size, unit)
        return lookup.result()


@dataclasses.dataclass(frozen=True)
class _Run:
    """One call's work in the folder of one encoder."""

    folder: Path
    identity: str
    reader: str
    encode: EncodeShard
    encode_together: EncodeTogether | None
    lookup: PartialLookup

    def encode_missing(self, shard_size: int, unit: str) -> None:
        """Encode missing contents, or take them from a concurrent run that encodes them."""
        rows, n_distinct = self.lookup.missing, len(self.lookup.distinct)
        logger.info(
            f"{n_distinct:,} distinct {unit}: {n_distinct - len(rows):,} stored, "
            f"{len(rows):,} to encode"
        )
        progress = Progress(logger, "encoding", len(rows), unit)
        plan = [rows[begin : begin + shard_size] for begin in range(0, len(rows), shard_size)]
        if self.encode_together is None:
            deferred = [shard for shard in plan if not self._settle(shard, progress, wait=False)]
            _log_deferred(deferred)
            for shard in deferred:
                self._settle(shard, progress, wait=True)
        else:
            deferred = self._settle_together(plan, progress, self.encode_together, wait=False)
            _log_deferred(deferred)
            while deferred:
                # Nothing is claimed while this waits, so two runs never wait for each other.
                deferred = self._settle_together(deferred, progress, self.encode_together, True)
        if n_encoded := self.lookup.n_encoded:
            speed = f"{progress.seconds:.1f} s, {progress.per_second:,.0f} {unit}/s"
            logger.info(f"encoded {n_encoded:,} {unit} in {speed}")

    def _settle(self, rows: np.ndarray, progress: Progress, *, wait: bool) -> bool:
        """Take or encode one planned shard.

        Returns False if another run is encoding it and `wait` is False.
        """
        path, done = self.folder / shard_name(self.lookup.distinct[rows]), progress.done
        with locked(_claim(path), wait=wait) as is_mine:
            if not is_mine:
                return False
            # Another run may have written the shard since the folder was listed.
            self.take(path, is_claimed=True)
            if np.isin(rows, self.lookup.missing).any():
                self._store(rows, self.encode(self.lookup.first[rows], progress.advance))
        progress.advance(done + len(rows) - progress.done)
        return True

    def _settle_together(
        self,
        plan: list[np.ndarray],
        progress: Progress,
        encode_together: EncodeTogether,
        wait: bool,
    ) -> list[np.ndarray]:
        """Take or encode planned shards; return those that another run is encoding.

        If `wait`, waits until the first shard is free.
        """
        # Each claim holds an open file; half of those allowed are left for other uses.
        n_together = min(_MOST_TOGETHER, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        deferred: list[np.ndarray] = []
        for begin in range(0, len(plan), n_together):
            mine: list[tuple[np.ndarray, contextlib.ExitStack]] = []
            with contextlib.ExitStack() as all_claims:
                for number, rows in enumerate(plan[begin : begin + n_together], begin):
                    claim = all_claims.enter_context(contextlib.ExitStack())
                    path = self.folder / shard_name(self.lookup.distinct[rows])
                    if not claim.enter_context(locked(_claim(path), wait=wait and not number)):
                        deferred.append(rows)
                        continue
                    # Another run may have written the shard since the folder was listed.
                    self.take(path, is_claimed=True)
                    if np.isin(rows, self.lookup.missing).any():
                        mine.append((rows, claim))
                    else:
                        claim.close()
                        progress.advance(len(rows))
                positions = [self.lookup.first[rows] for rows, _ in mine]
                n_stored = 0
                for number, shard in encode_together(positions) if mine else ():
                    rows, claim = mine[number]
                    self._store(rows, shard)
                    claim.close()
                    progress.advance(len(rows))
                    n_stored += 1
                if n_stored != len(mine):
                    raise RuntimeError(f"{n_stored:,} of {len(mine):,} shards were encoded")
        return deferred

    def _store(self, rows: np.ndarray, shard: Shard) -> None:
        """Validate what the encoder returned, store it, and take it."""
        vectors = np.array(shard.vectors, dtype=np.float32)
        encoder, n_rows = f"the encoder {self.identity}", len(rows)
        if vectors.ndim != 2 or len(vectors) != n_rows:
            raise ValueError(f"{encoder} returned shape {vectors.shape} for {n_rows} contents")
        if unknown := sorted(shard.reasons.keys() - range(n_rows)):
            raise ValueError(f"{encoder} gave a reason for row {unknown[0]} of {n_rows} contents")
        vectors[list(shard.reasons)] = 0
        if n_wrong := int(np.sum(~np.isfinite(vectors).all(axis=1))):
            raise ValueError(
                f"{encoder} returned {n_wrong} of {n_rows} vectors with values that are not "
                "finite. Fix: check its weights and number format"
            )
        self.lookup.require_width(vectors.shape[1], "the encoder")
        table = shard_table(self.lookup.distinct[rows], vectors, shard.reasons)
        path = write_shard(self.folder, table, self.identity, self.reader, [shard.notes])
        with open_shard(path) as stored:
            self.lookup.take(stored, self.reader)
        self.lookup.n_encoded += len(rows) - len(shard.reasons)

    def take(self, path: Path, is_claimed: bool = False) -> None:
        """Take a shard if it exists; rename its file if it is damaged.

        Renaming needs the lock of the shard, which the caller holds if `is_claimed`.
        """
        try:
            with open_shard(path) as stored:
                self.lookup.take(stored, self.reader)
        except FileNotFoundError:
            # Not written yet, or renamed by another run since the folder was listed.
            return
        except DamagedFileError as error:
            if is_claimed:
                damaged = path.with_name(f"{path.name}.damaged")
                os.replace(path, damaged)
                logger.warning(f"{error}; renamed to {damaged.name}, to be encoded again")
                return
            # If another run holds the lock, it is replacing the file.
            with locked(_claim(path), wait=False) as is_mine:
                if is_mine:
                    self.take(path, is_claimed=True)


def _log_deferred(shards: list[np.ndarray]) -> None:
    if shards:
        logger.info(f"waiting for {len(shards):,} shards that another run is encoding")


def _claim(path: Path) -> Path:
    """Return the lock file of a shard; the run that holds the lock encodes the shard."""
    return path.with_name(f"{path.name}.lock")
