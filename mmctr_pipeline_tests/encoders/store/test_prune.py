"""Pruning deletes what no recent run has used, and leaves the results of the rest unchanged."""

import datetime
import os
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.encoders.store.prune import PruneReport, prune
from mmctr_pipeline.encoders.store.vector_store import Shard
from mmctr_pipeline.files.progress import Advance
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.encoders.store.vector_store_runs import (
    FIRST_DAY,
    WIDTH,
    Encoder,
    copy_shards,
    run,
    shard_files,
)

ROW_BYTES = 32 + 4 * WIDTH


def _prune(folder: Path, day: int, unused_days: int = 30, **options) -> list[PruneReport]:
    now = FIRST_DAY + datetime.timedelta(days=day)
    return prune(folder, unused_days, now=now, **options)


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_unused_contents_are_dropped_and_the_rest_is_unchanged(tmp_path: Path) -> None:
    before = run(tmp_path, range(10), Encoder(range(10), failing={1, 8}))
    run(tmp_path, range(5), day=20)
    (report,) = _prune(tmp_path, day=40)
    assert report == PruneReport(
        "encoder:1", n_kept=5, n_dropped=5, kept_bytes=5 * ROW_BYTES, dropped_bytes=5 * ROW_BYTES
    )
    encoder = Encoder(range(10))
    after = run(tmp_path, range(10), encoder)
    assert encoder.encoded == [5, 6, 7, 8, 9]
    assert after.vectors[:5].tobytes() == before.vectors[:5].tobytes()
    assert after.reasons == {1: "1 is truncated"}


def test_contents_unused_for_exactly_the_allowed_days_are_kept(tmp_path: Path) -> None:
    run(tmp_path, [1, 2])
    assert _prune(tmp_path, day=30)[0].n_dropped == 0
    assert _prune(tmp_path, day=31)[0].n_dropped == 2


def test_zero_days_keep_contents_used_today(tmp_path: Path) -> None:
    run(tmp_path, [1, 2])
    run(tmp_path, [2], day=3)
    assert _prune(tmp_path, day=3, unused_days=0)[0].n_dropped == 1
    assert run(tmp_path, [2], Encoder([])).n_reused == 1


def test_days_are_counted_in_utc(tmp_path: Path) -> None:
    run(tmp_path, [1])
    zone = datetime.timezone(datetime.timedelta(hours=14))
    now = (FIRST_DAY + datetime.timedelta(days=30)).astimezone(zone)
    (report,) = prune(tmp_path, now=now)
    assert report.n_dropped == 0


def test_dry_run_reports_what_a_real_run_drops_and_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path, range(10))
    run(tmp_path, range(5), day=20)
    (tmp_path / "encoder-0123abcd").mkdir()
    before = _files(tmp_path)
    report = _prune(tmp_path, day=40, dry_run=True)
    # The last holder removes the lock file.
    assert {path: text for path, text in before.items() if path.name != ".lock"} == _files(tmp_path)
    assert (tmp_path / "encoder-0123abcd").is_dir()
    assert report == _prune(tmp_path, day=40)
    assert _files(tmp_path) != before


def test_folder_in_use_is_skipped(tmp_path: Path) -> None:
    run(tmp_path, [1, 2])
    run(tmp_path, [1, 2], identity="encoder:2")
    is_encoding, may_finish = threading.Event(), threading.Event()

    def encode(positions: np.ndarray, advance: Advance) -> Shard:
        is_encoding.set()
        may_finish.wait(900)
        return Encoder([1, 2, 3])(positions, advance)

    work = threading.Thread(target=run, args=(tmp_path, [1, 2, 3], encode))
    work.start()
    try:
        assert is_encoding.wait(900)
        before = _files(tmp_path)
        reports = {report.in_use: report for report in _prune(tmp_path, day=100)}
        assert reports[True].encoder.startswith("encoder-1-")
        assert reports[False] == PruneReport("encoder:2", n_dropped=2, dropped_bytes=2 * ROW_BYTES)
        left = _files(tmp_path)
        assert left == {path: before[path] for path in left}
        assert {path.parent.name for path in left} == {reports[True].encoder}
    finally:
        may_finish.set()
        work.join(900)
    assert run(tmp_path, [1, 2, 3], Encoder([])).n_reused == 3
    assert not _prune(tmp_path, day=100)[0].in_use


def test_small_shards_are_merged(tmp_path: Path) -> None:
    before = run(tmp_path, range(22), Encoder(range(22), failing={3, 11}))
    assert len(shard_files(tmp_path)) == 6
    assert _prune(tmp_path, day=1)[0].n_dropped == 0
    (merged,) = shard_files(tmp_path)
    after = run(tmp_path, range(22), Encoder([]))
    assert after.vectors.tobytes() == before.vectors.tobytes()
    assert after.reasons == before.reasons
    assert sorted(map(str, after.notes)) == sorted(map(str, before.notes))
    written = merged.stat().st_mtime_ns
    _prune(tmp_path, day=1)
    assert shard_files(tmp_path) == [merged]
    assert merged.stat().st_mtime_ns == written


def test_merged_shards_are_not_merged_again(tmp_path: Path) -> None:
    n = 9_000
    before = run(tmp_path, range(n), shard_size=2_000)
    large = shard_files(tmp_path)
    _prune(tmp_path, day=0)
    assert shard_files(tmp_path) == large
    run(tmp_path, range(n + 5_000), shard_size=500)
    for _ in range(2):
        _prune(tmp_path, day=0)
        # Four shards of the first run, and two that hold its last 1,000 rows and 5,000 new ones.
        assert len(shard_files(tmp_path)) == 6
    after = run(tmp_path, range(n), Encoder([]))
    np.testing.assert_array_equal(after.vectors, before.vectors)


def test_failures_of_different_readers_are_not_merged(tmp_path: Path) -> None:
    run(tmp_path, [1, 2], Encoder([1, 2], failing={1}))
    run(tmp_path, [3, 4], Encoder([3, 4], failing={3}), reader="reader 2")
    _prune(tmp_path, day=1)
    again = Encoder([1, 2, 3, 4], failing={1})
    assert run(tmp_path, [1, 2, 3, 4], again, reader="reader 2").reasons.keys() == {0, 2}
    assert again.encoded == [1]
    # Of two failures of the same content, the latest is kept.
    os.utime(shard_files(tmp_path)[0], (0, 0))
    _prune(tmp_path, day=1)
    assert run(tmp_path, [1], Encoder([]), reader="reader 2").reasons


@pytest.mark.parametrize("others", [[8], [9], [10], [11]])
def test_pruning_keeps_the_copy_of_a_content_that_lookups_use(
    tmp_path: Path, others: list[int]
) -> None:
    """One shard loses some or all rows; the other is rewritten under another name."""
    for folder, numbers in {"a": [1, 2, 3], "b": [1, *others]}.items():
        run(tmp_path / folder, numbers)
        copy_shards(tmp_path / folder, tmp_path / "both")
    run(tmp_path / "both", [1, 2, 3, *others], Encoder([]))
    before = run(tmp_path / "both", [1, 2], Encoder([]), day=40)
    (report,) = _prune(tmp_path / "both", day=60, unused_days=25)
    assert (report.n_kept, report.n_dropped) == (2, 2 + len(others))
    after = run(tmp_path / "both", [1, 2], Encoder([]))
    assert after.vectors.tobytes() == before.vectors.tobytes()


@pytest.mark.parametrize("other", [2, 3, 4, 5, 6, 7])
def test_rewritten_shard_may_take_the_name_of_a_dropped_one(tmp_path: Path, other: int) -> None:
    """A shard of two contents loses one, and its new name is that of the other shard."""
    for folder, numbers in {"a": [1, other], "b": [1]}.items():
        run(tmp_path / folder, numbers)
        copy_shards(tmp_path / folder, tmp_path / "both")
    run(tmp_path / "both", [1, other], Encoder([]))
    before = run(tmp_path / "both", [1], Encoder([]), day=40)
    assert _prune(tmp_path / "both", day=60, unused_days=25)[0].n_kept == 1
    after = run(tmp_path / "both", [1], Encoder([]))
    assert after.vectors.tobytes() == before.vectors.tobytes()


def test_without_a_record_of_use_the_time_of_the_file_counts(tmp_path: Path) -> None:
    run(tmp_path, range(8), shard_size=4)
    (record,) = tmp_path.glob("*/last_used.parquet")
    record.unlink()
    for path, day in zip(shard_files(tmp_path), (0, 20), strict=True):
        time = (FIRST_DAY + datetime.timedelta(days=day)).timestamp()
        os.utime(path, (time, time))
    assert _prune(tmp_path, day=40)[0].n_dropped == 4
    # The merged file is new, but its contents keep their days.
    assert _prune(tmp_path, day=50)[0].n_dropped == 0
    assert _prune(tmp_path, day=51)[0].n_dropped == 4


def test_damaged_record_of_use_restarts_the_count_of_unused_days(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, [1, 2])
    (record,) = tmp_path.glob("*/last_used.parquet")
    record.write_bytes(record.read_bytes()[:50])
    assert _prune(tmp_path, day=100)[0].n_kept == 2
    assert str(record) in caplog.messages[0]
    assert _prune(tmp_path, day=130)[0].n_dropped == 0
    assert _prune(tmp_path, day=131)[0].n_dropped == 2


def test_only_leftovers_and_empty_folders_are_removed(tmp_path: Path) -> None:
    run(tmp_path, [1, 2])
    run(tmp_path, [3], identity="encoder:2", day=90)
    unused, used = (path.parent for path in shard_files(tmp_path))
    assert unused.name.startswith("encoder-1-")
    shard = shard_files(tmp_path)[1].name
    left_behind = [
        *(f"{shard}.lock", "0" * 32 + ".parquet.damaged", "last_used.parquet.lock"),
        *(f".tmp-0123456789ab-{shard}", f".tmp-0123456789ab-{shard}.lock"),
    ]
    for name in left_behind:
        (used / name).write_text("x")
    (used / "notes.txt").write_text("x")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "README").write_text("x")
    reports = {report.encoder: report for report in _prune(tmp_path, day=100)}
    assert reports["encoder:2"].n_left_behind == 5
    assert not unused.exists()
    assert {path.name for path in used.iterdir()} == {shard, "notes.txt", "last_used.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == {used.name, "pictures", "README"}


@pytest.mark.parametrize("is_earlier_version", [False, True])
def test_damaged_shard_is_removed(
    is_earlier_version: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, range(8))
    first, second = shard_files(tmp_path)
    first.write_bytes(b"")
    if is_earlier_version:
        # Earlier versions wrote page checksums only, so the damage is found only when the vectors
        # are read to rewrite the shard.
        table = pq.read_table(second)
        metadata = {k: v for k, v in table.schema.metadata.items() if k != b"mmctr.crc32"}
        options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
        pq.write_table(table.replace_schema_metadata(metadata), second, **options)
    content = bytearray(second.read_bytes())
    content[content.index(np.float32(1 / 7).tobytes())] ^= 1
    second.write_bytes(content)
    (report,) = _prune(tmp_path, day=1)
    assert report.n_left_behind == (1 if is_earlier_version else 2)
    assert len([line for line in caplog.messages if str(first) in line]) == 1
    encoder = Encoder(range(8))
    run(tmp_path, range(8), encoder)
    assert len(encoder.encoded) >= 4


def test_missing_folder_has_nothing_to_prune(tmp_path: Path) -> None:
    assert _prune(tmp_path / "vectors", day=0) == []
    assert not (tmp_path / "vectors").exists()


def test_negative_days_raise(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unused_days is -1"):
        _prune(tmp_path, day=0, unused_days=-1)


def test_huge_number_of_days_keeps_everything(tmp_path: Path) -> None:
    run(tmp_path, [1])
    assert _prune(tmp_path, day=0, unused_days=10**12)[0].n_kept == 1
