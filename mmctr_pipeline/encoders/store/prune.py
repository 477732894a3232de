"""Pruning the vector store: what has long not been used goes, small shards become one."""

import collections
import contextlib
import dataclasses
import datetime
import logging
import re
from pathlib import Path

import numpy as np

from mmctr_pipeline.encoders.store.last_used import (
    LAST_USED,
    day_number,
    days_of,
    read_last_used,
    write_last_used,
)
from mmctr_pipeline.encoders.store.shards import (
    KEY,
    DamagedFileError,
    Notes,
    StoredShard,
    open_shard,
    shard_paths,
    write_shard,
)
from mmctr_pipeline.encoders.store.vector_store import FOLDER_LOCK, utc_now
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.settings import SettingsError

logger = logging.getLogger(__name__)

# A night adds a handful of vectors: shards below the second size join until they reach the first.
_MERGED_ROWS = 4096
_SMALL_ROWS = 1024

_ENCODER = re.compile(r".+-[0-9a-f]{8}")
_LEFT_BEHIND = re.compile(r"\.tmp-[0-9a-f]{12}-.+|.+\.parquet\.(lock|damaged)")


@dataclasses.dataclass(frozen=True)
class PruneReport:
    """What pruning did, or would do, in the folder of one encoder.

    `encoder` is its identity, or the folder's name where no shard tells. Vectors are counted with
    the remembered failures; `kept_bytes` and `dropped_bytes` are those of keys and vectors.
    `n_left_behind` files of stopped runs and damaged files went too. `in_use` folders are left
    alone, and nothing of them is counted.
    """

    encoder: str
    n_kept: int = 0
    n_dropped: int = 0
    kept_bytes: int = 0
    dropped_bytes: int = 0
    n_left_behind: int = 0
    in_use: bool = False


def prune(
    folder: Path,
    unused_days: int = 30,
    *,
    dry_run: bool = False,
    now: datetime.datetime | None = None,
) -> list[PruneReport]:
    """Drop what was last used more than `unused_days` days (of UTC) ago from the store in `folder`.

    What has no recorded use counts as used when its shard was written. An encoder that a run is
    using at this moment is left alone. Of a content that stands in several shards the one that
    would be recalled is kept; vectors stay as they are, bit for bit. Folders that become empty are
    removed. A `dry_run` only reports. Returns one report per encoder, by folder name, none where
    `folder` does not exist. Raises `SettingsError` where `unused_days` is negative.
    """
    if unused_days < 0:
        raise SettingsError(f"unused_days is {unused_days}; it must be 0 or more")
    today = day_number((now or utc_now()).astimezone(datetime.UTC).date())
    reports = []
    for encoder in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not encoder.is_dir() or not _ENCODER.fullmatch(encoder.name):
            continue
        with locked(encoder / FOLDER_LOCK, wait=False) as is_free:
            if is_free:
                reports.append(_prune_encoder(encoder, unused_days, today, dry_run))
            else:
                reports.append(PruneReport(encoder.name, in_use=True))
        if not dry_run:
            # Only an empty folder can be removed, and a run may have begun there just now.
            with contextlib.suppress(OSError):
                encoder.rmdir()
    return reports


@dataclasses.dataclass(frozen=True)
class _Contents:
    """What a shard file holds, without its vectors; `keep` `(n,) bool` is what stays of it."""

    path: Path
    identity: str
    contents: np.ndarray
    has_vector: np.ndarray
    reader: str
    width: int
    written: float
    keep: np.ndarray

    @property
    def n_kept(self) -> int:
        return int(self.keep.sum())

    @property
    def n_dropped(self) -> int:
        return len(self.keep) - self.n_kept

    @property
    def row_bytes(self) -> int:
        return KEY.itemsize + 4 * self.width


def _prune_encoder(folder: Path, unused_days: int, today: int, dry_run: bool) -> PruneReport:
    left_behind = [path for path in folder.iterdir() if _LEFT_BEHIND.fullmatch(path.name)]
    shards, damaged = _read_shards(folder)
    left_behind += damaged
    shards, contents, days = _choose(folder, shards, unused_days, today)
    if not dry_run:
        for path in left_behind:
            path.unlink()
        _rewrite(folder, shards)
        if len(contents):
            write_last_used(folder, contents, days)
        else:
            (folder / LAST_USED).unlink(missing_ok=True)
    return PruneReport(
        encoder=shards[0].identity if shards else folder.name,
        n_kept=sum(shard.n_kept for shard in shards),
        n_dropped=sum(shard.n_dropped for shard in shards),
        kept_bytes=sum(shard.n_kept * shard.row_bytes for shard in shards),
        dropped_bytes=sum(shard.n_dropped * shard.row_bytes for shard in shards),
        n_left_behind=len(left_behind),
    )


def _read_shards(folder: Path) -> tuple[list[_Contents], list[Path]]:
    """Return the shards by file name, and the files that are damaged."""
    shards, damaged = [], []
    for path in shard_paths(folder):
        try:
            with open_shard(path) as stored:
                shard = _Contents(
                    path=path,
                    identity=stored.identity,
                    contents=stored.contents,
                    has_vector=stored.has_vector,
                    reader=stored.reader,
                    width=stored.width,
                    written=path.stat().st_mtime,
                    keep=np.ones(len(stored.contents), bool),
                )
        except DamagedFileError as error:
            logger.warning(f"{error}; of no use any more")
            damaged.append(path)
        else:
            shards.append(shard)
    return shards, damaged


def _choose(
    folder: Path, shards: list[_Contents], unused_days: int, today: int
) -> tuple[list[_Contents], np.ndarray, np.ndarray]:
    """Return the shards with what stays of each, and all that stays, sorted, with its days."""
    if not shards:
        return [], np.empty(0, KEY), np.empty(0, np.int32)
    contents = np.concatenate([shard.contents for shard in shards])
    has_vector = np.concatenate([shard.has_vector for shard in shards])
    lengths = [len(shard.contents) for shard in shards]
    shard_of = np.repeat(np.arange(len(shards)), lengths)
    written = np.array([shard.written for shard in shards])
    # Of several vectors the first file's is recalled; of failures the latest may still be believed.
    rank = np.where(has_vector, shard_of, len(shards) + np.argsort(np.argsort(-written))[shard_of])
    distinct, which = np.unique(contents, return_inverse=True)
    order = np.lexsort((rank, which))
    winners = order[np.diff(which[order], prepend=-1) > 0]
    try:
        days = days_of(distinct, *read_last_used(folder))
        days = np.where(days < 0, written[shard_of[winners]] // 86_400, days).astype(np.int32)
    except DamagedFileError as error:
        logger.warning(f"{error}; all that is remembered there counts as used today")
        days = np.full(len(distinct), today, np.int32)
    in_use = days >= today - unused_days
    keep = np.zeros(len(contents), bool)
    keep[winners[in_use]] = True
    parts = np.split(keep, np.cumsum(lengths)[:-1])
    chosen = [
        dataclasses.replace(shard, keep=part) for shard, part in zip(shards, parts, strict=True)
    ]
    return chosen, distinct[in_use], days[in_use]


def _rewrite(folder: Path, shards: list[_Contents]) -> None:
    """Write anew what stays of the shards that lose something, small ones along with them."""
    groups = collections.defaultdict(list)
    for shard in shards:
        if shard.n_kept and (shard.n_dropped or shard.n_kept < _SMALL_ROWS):
            groups[shard.reader, shard.width].append(shard)
    done = {shard.path for shard in shards if not shard.n_kept}
    for group in groups.values():
        if len(group) > 1 or group[0].n_dropped:
            written = _merge(folder, group)
            done |= {shard.path for shard in group}
            done -= written
    # From the last name to the first: were this stopped in the middle, what is recalled of a
    # content that stands in several files would still be the same.
    for path in sorted(done, reverse=True):
        path.unlink()


def _merge(folder: Path, group: list[_Contents]) -> set[Path]:
    """Write what stays of the shards into new ones; return the paths of these."""
    written: set[Path] = set()
    pack = _Pack(folder, group[0].identity, group[0].reader)
    for shard in group:
        try:
            with open_shard(shard.path) as stored:
                for rows, vectors in stored.read_vectors(shard.keep):
                    pack.add(stored, rows, vectors)
                    if pack.n_rows >= _MERGED_ROWS:
                        written.add(pack.write())
                        pack = _Pack(folder, pack.identity, pack.reader)
        except DamagedFileError as error:
            logger.warning(f"{error}; of no use any more")
    if pack.n_rows:
        written.add(pack.write())
    return written


@dataclasses.dataclass
class _Pack:
    """Rows of several shards that become one."""

    folder: Path
    identity: str
    reader: str
    n_rows: int = 0
    contents: list[np.ndarray] = dataclasses.field(default_factory=list)
    vectors: list[np.ndarray] = dataclasses.field(default_factory=list)
    reasons: dict[int, str] = dataclasses.field(default_factory=dict)
    notes: list[Notes] = dataclasses.field(default_factory=list)

    def add(self, stored: StoredShard, rows: np.ndarray, vectors: np.ndarray) -> None:
        for at, row in enumerate(rows.tolist(), start=self.n_rows):
            if row in stored.reasons:
                self.reasons[at] = stored.reasons[row]
        self.contents.append(stored.contents[rows])
        self.vectors.append(vectors)
        self.notes += [notes for notes in stored.notes if notes not in self.notes]
        self.n_rows += len(rows)

    def write(self) -> Path:
        contents, vectors = np.concatenate(self.contents), np.concatenate(self.vectors)
        order = np.argsort(contents)
        reasons = {
            place: self.reasons[row]
            for place, row in enumerate(order.tolist())
            if row in self.reasons
        }
        return write_shard(
            self.folder,
            self.identity,
            contents[order],
            vectors[order],
            reasons,
            self.reader,
            self.notes,
        )
