"""The vector store: an encoding is remembered under its content's hash and its encoder's identity.

`storage/vectors/<encoder>/<shard>.parquet`; `shards` says what a file looks like. What is missing
is encoded in shards planned in the order of the content hashes, each written as soon as it is
whole. Whichever shards of a plan are there already, the others stay the same: so a run that was
killed and started again encodes exactly the shards that were left, and runs at once share them.
"""

import dataclasses
import datetime
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mmctr_pipeline.encoders.store.last_used import record_use
from mmctr_pipeline.encoders.store.lookup import PartialLookup
from mmctr_pipeline.encoders.store.shards import (
    DamagedFileError,
    Notes,
    encoder_folder,
    open_shard,
    shard_name,
    shard_paths,
    write_shard,
)
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.files.progress import Progress

logger = logging.getLogger(__name__)

FOLDER_LOCK = ".lock"
"""Held, shared, by each run that uses an encoder's folder, so that nothing is pruned there."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """What an encoder returns for some positions: `vectors` `(n, D) float32` in their order.

    `reasons` says, by position, why a content has no vector; what stands in its row is ignored.
    `notes` are remembered with the shard.
    """

    vectors: np.ndarray
    reasons: dict[int, str] = dataclasses.field(default_factory=dict)
    notes: Notes = dataclasses.field(default_factory=dict)


EncodeShard = Callable[[np.ndarray], Shard]
"""Encodes the contents at `(n,) int64` positions, which come in the order of the content hashes."""


@dataclasses.dataclass(frozen=True)
class StoreResult:
    """The vectors of all contents asked for, in their order.

    `vectors` is `(N, D) float32`, zeros where `reasons` (by position) says why there is none, and
    `(0, 0)` where nothing was asked for. Each distinct content counts once: its vector was encoded
    by this call or reused, or it failed, now or earlier. `notes` are those of the shards used.
    """

    vectors: np.ndarray
    reasons: dict[int, str]
    n_encoded: int
    n_reused: int
    n_failed: int
    notes: list[Notes]


def utc_now() -> datetime.datetime:
    """Return the time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


class VectorStore:
    """The remembered encodings in a folder, which any number of processes may use at once."""

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
    ) -> StoreResult:
        """Return the vectors of `contents` (SHA-256 digests, which may repeat).

        What is not remembered under `identity` goes to `encode`, each distinct content once, in
        shards of `shard_size`. A failure is remembered too, and tried again when `reader`, which
        names what reads the contents, has changed. Where a content stands in several shards, a
        vector is taken before a failure, and then the shard whose file name comes first. A damaged
        shard file is named in the log and renamed to end in `.damaged` (it may tell why), and
        what it held is encoded again.

        Of processes that ask for the same contents at once, one encodes each shard. Raises
        `ValueError` for what is no digest, and where `encode` returns another number of vectors,
        another width than before, or values that are not finite; that shard is not remembered.
        """
        if shard_size < 1:
            raise ValueError(f"shard_size is {shard_size}; it must be at least 1")
        lookup = PartialLookup(contents)
        n_encoded = 0
        if len(lookup.distinct):
            folder = self._folder / encoder_folder(identity)
            with locked(folder / FOLDER_LOCK, shared=True):
                # At the start, as a run that is stopped has used what it found as well.
                record_use(folder, lookup.distinct, self._now().date())
                run = _Run(folder, identity, reader, encode, lookup)
                run.recall()
                n_encoded = run.encode_missing(shard_size, unit)
        return StoreResult(
            vectors=lookup.vectors(),
            reasons=lookup.reasons(),
            n_encoded=n_encoded,
            n_reused=lookup.n_known - n_encoded,
            n_failed=lookup.n_failed,
            notes=lookup.notes,
        )


@dataclasses.dataclass(frozen=True)
class _Run:
    """One call's work in the folder of one encoder."""

    folder: Path
    identity: str
    reader: str
    encode: EncodeShard
    lookup: PartialLookup

    def recall(self) -> None:
        for path in shard_paths(self.folder):
            try:
                self._take(path)
            except DamagedFileError:
                # Whoever holds the claim is replacing it.
                with locked(_claim(path), wait=False) as is_mine:
                    if is_mine:
                        self._take_or_set_aside(path)

    def encode_missing(self, shard_size: int, unit: str) -> int:
        """Encode, or recall from another run at work, what is missing; return how many vectors."""
        rows, n_distinct = self.lookup.missing, len(self.lookup.distinct)
        logger.info(
            f"{n_distinct:,} distinct {unit}: {n_distinct - len(rows):,} remembered, "
            f"{len(rows):,} to encode"
        )
        progress = Progress(logger, "encoding", len(rows), unit)
        plan = [rows[begin : begin + shard_size] for begin in range(0, len(rows), shard_size)]
        deferred, n_encoded = [], 0
        for shard in plan:
            n_new = self._settle(shard, wait=False)
            if n_new is None:
                deferred.append(shard)
                continue
            n_encoded += n_new
            progress.advance(len(shard))
        if deferred:
            logger.info(f"waiting for {len(deferred):,} shards that another run has begun")
        for shard in deferred:
            n_encoded += self._settle(shard, wait=True) or 0
            progress.advance(len(shard))
        if n_encoded:
            rate = n_encoded / max(progress.seconds, 1e-9)
            logger.info(
                f"encoded {n_encoded:,} {unit} in {progress.seconds:.1f} s, {rate:,.0f} {unit}/s"
            )
        return n_encoded

    def _settle(self, rows: np.ndarray, *, wait: bool) -> int | None:
        """Recall or encode one shard of the plan; return how many vectors were encoded.

        None where another run has begun it and `wait` is False.
        """
        path = self.folder / shard_name(self.lookup.distinct[rows])
        with locked(_claim(path), wait=wait) as is_mine:
            if not is_mine:
                return None
            # Another run may have written it since the folder was read.
            self._take_or_set_aside(path)
            if self.lookup.are_settled(rows):
                return 0
            return self._encode(rows)

    def _encode(self, rows: np.ndarray) -> int:
        positions = self.lookup.first[rows]
        shard = self.encode(positions)
        vectors = np.array(shard.vectors, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(rows):
            raise ValueError(
                f"{len(rows)} contents went to the encoder {self.identity} and vectors of shape "
                f"{vectors.shape} came back"
            )
        place = {int(position): at for at, position in enumerate(positions)}
        unknown = sorted(shard.reasons.keys() - place.keys())
        if unknown:
            raise ValueError(
                f"the encoder {self.identity} gave a reason for position {unknown[0]}, which it "
                "was not asked for"
            )
        reasons = {place[position]: reason for position, reason in shard.reasons.items()}
        vectors[list(reasons)] = 0
        n_wrong = int(np.sum(~np.isfinite(vectors).all(axis=1)))
        if n_wrong:
            raise ValueError(
                f"{n_wrong} of {len(rows)} vectors of the encoder {self.identity} have values "
                "that are not finite. Fix: check its weights and number format"
            )
        # First, as it refuses another width.
        self.lookup.add(rows, vectors, reasons, shard.notes)
        contents = self.lookup.distinct[rows]
        notes = [shard.notes]
        write_shard(self.folder, self.identity, contents, vectors, reasons, self.reader, notes)
        return len(rows) - len(reasons)

    def _take(self, path: Path) -> None:
        try:
            with open_shard(path) as stored:
                self.lookup.take(stored, self.reader)
        except FileNotFoundError:
            # Not written yet, or set aside by another run since the folder was listed.
            return

    def _take_or_set_aside(self, path: Path) -> None:
        """Take a shard whose claim is held."""
        try:
            self._take(path)
        except DamagedFileError as error:
            aside = path.with_name(f"{path.name}.damaged")
            os.replace(path, aside)
            logger.warning(f"{error}; set aside as {aside.name}, what it held is encoded again")


def _claim(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
