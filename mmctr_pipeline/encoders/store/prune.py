"""Prune the vector store: drop vectors not used for a long time, and merge small shards."""

import collections
import contextlib
import dataclasses
import datetime
import logging
import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmctr_pipeline.encoders.store.parquet_files import (
    KEY,
    LAST_USED,
    StoredShard,
    content_keys,
    find_keys,
    open_shard,
    read_last_used,
    shard_paths,
    write_last_used,
    write_shard,
)
from mmctr_pipeline.encoders.store.vector_store import FOLDER_LOCK, utc_now
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.settings import SettingsError

logger = logging.getLogger(__name__)

# A nightly run adds only a few vectors, so small shards pile up. Those with fewer than
# `_SMALL_ROWS` rows are merged into shards of about `_MERGED_ROWS`.
_MERGED_ROWS = 4096
_SMALL_ROWS = 1024

_ENCODER = re.compile(r".+-[0-9a-f]{8}")
_LEFTOVER = re.compile(r"\.tmp-[0-9a-f]{12}-.+|.+\.parquet\.(lock|damaged)")


@dataclasses.dataclass(frozen=True)
class PruneReport:
    """What pruning did, or would do, in the folder of one encoder.

    `encoder` is the encoder's identity, or the folder's name if no shard is readable. `n_kept` and
    `n_dropped` count vectors and stored failures; `kept_bytes` and `dropped_bytes` are the
    sizes of their keys and vectors. `n_left_behind` counts the leftovers of interrupted runs and
    the damaged files, which are removed too. A folder `in_use` is skipped, and its counts are 0.
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
    """Drop contents last used more than `unused_days` days ago, and merge small shards.

    If several shards hold the same content, the copy that a lookup would return is kept; vectors
    are unchanged bit for bit. Folders that become empty are removed. Returns one report per
    encoder, by folder name, and none if `folder` does not exist. Raises `SettingsError` if
    `unused_days` is negative.

    Parameters
    ----------
    folder
        The folder of the vector store. Encoders that a run is using are skipped.
    unused_days
        Days (of UTC) without use after which a content is dropped. A content without recorded use
        counts as used when its shard was written.
    dry_run
        Report only.
    now
        The current time, for tests.
    """
    if unused_days < 0:
        raise SettingsError(f"unused_days is {unused_days}; it must be 0 or more")
    today = np.datetime64((now or utc_now()).astimezone(datetime.UTC).date())
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
            # Fails for a folder that is not empty, or in which a run has just started.
            with contextlib.suppress(OSError):
                encoder.rmdir()
    return reports


def _prune_encoder(
    folder: Path, unused_days: int, today: np.datetime64, dry_run: bool
) -> PruneReport:
    leftovers = [path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name)]
    # A shard stays usable after its file is closed, except for its vectors.
    shards: list[StoredShard] = []
    for path in shard_paths(folder):
        try:
            with open_shard(path) as shard:
                shards.append(shard)
        except DamagedFileError as error:
            logger.warning(f"{error}; its contents will be encoded again when needed")
            leftovers.append(path)
    masks, contents, days = _select(folder, shards, unused_days, today)
    if not dry_run:
        for path in leftovers:
            path.unlink()
        _rewrite(folder, shards, masks)
        if len(contents):
            write_last_used(folder, contents, days)
        else:
            (folder / LAST_USED).unlink(missing_ok=True)
    row_bytes = np.array([KEY.itemsize + 4 * shard.width for shard in shards], np.int64)
    counts = np.array([(mask.sum(), (~mask).sum()) for mask in masks], np.int64).reshape(-1, 2)
    n_kept, n_dropped = counts.sum(axis=0).tolist()
    kept_bytes, dropped_bytes = (row_bytes @ counts).tolist()
    encoder = shards[0].identity if shards else folder.name
    return PruneReport(encoder, n_kept, n_dropped, kept_bytes, dropped_bytes, len(leftovers))


def _select(
    folder: Path, shards: list[StoredShard], unused_days: int, today: np.datetime64
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return which rows to keep of each shard, `(n,) bool`, and the kept contents and days.

    The contents are `(m,) KEY` ascending, their days of last use `(m,) datetime64[D]`.
    """
    if not shards:
        return [], np.empty(0, KEY), np.empty(0, "datetime64[D]")
    contents = np.concatenate([shard.contents for shard in shards])
    has_vector = np.concatenate([shard.has_vector for shard in shards])
    shard_of = np.repeat(np.arange(len(shards)), [len(shard.contents) for shard in shards])
    written = np.array([shard.path.stat().st_mtime for shard in shards])[shard_of]
    # A lookup prefers vectors to failures, and among vectors the one in the first file. Among
    # failures only the latest is useful.
    order = np.lexsort((np.where(has_vector, shard_of, -written), ~has_vector))
    distinct, first = np.unique(contents[order], return_index=True)
    winners = order[first]
    days = written[winners].astype("datetime64[s]").astype("datetime64[D]")
    try:
        known, known_days = read_last_used(folder)
        if len(known):
            position, is_known = find_keys(distinct, known)
            days = np.where(is_known, known_days[position], days)
    except DamagedFileError as error:
        logger.warning(f"{error}; all stored contents count as used today")
        days = np.full(len(distinct), today)
    is_recent = days >= today - np.timedelta64(unused_days, "D")
    keep = np.zeros(len(contents), bool)
    keep[winners[is_recent]] = True
    masks = [keep[shard_of == number] for number in range(len(shards))]
    return masks, distinct[is_recent], days[is_recent]


_Pack = list[tuple[StoredShard, np.ndarray]]
"""Shards to merge into one, each with `(n,) bool`, True for the rows to keep."""


def _rewrite(folder: Path, shards: list[StoredShard], masks: list[np.ndarray]) -> None:
    """Rewrite the shards that lose rows, merged with the small ones."""
    stale, written = set(), set()
    packs: dict[tuple[str, int, int], _Pack] = collections.defaultdict(list)
    n_rows: dict[tuple[str, int], int] = collections.defaultdict(int)
    for shard, mask in zip(shards, masks, strict=True):
        kind = shard.reader, shard.width
        if not mask.any():
            stale.add(shard.path)
        elif not mask.all() or len(mask) < _SMALL_ROWS:
            packs[*kind, n_rows[kind] // _MERGED_ROWS].append((shard, mask))
            n_rows[kind] += int(mask.sum())
    for pack in packs.values():
        if len(pack) > 1 or not pack[0][1].all():
            written.add(_write_pack(folder, pack))
            stale |= {shard.path for shard, _ in pack}
    # In reverse order, so that an interrupted prune does not change which copy a lookup finds.
    for path in sorted(stale - written, reverse=True):
        path.unlink()


def _write_pack(folder: Path, pack: _Pack) -> Path | None:
    """Write the kept rows of several shards as one; return its path, None if all are damaged."""
    tables, notes = [], []
    for shard, mask in pack:
        try:
            with open_shard(shard.path) as stored:
                tables.append(stored.read_table().filter(pa.array(mask)))
        except DamagedFileError as error:
            logger.warning(f"{error}; its contents will be encoded again when needed")
        else:
            notes += [entry for entry in shard.notes if entry not in notes]
    if not tables:
        return None
    table = pa.concat_tables(tables)
    table = table.take(np.argsort(content_keys(table)))
    return write_shard(folder, table, pack[0][0].identity, pack[0][0].reader, notes)
