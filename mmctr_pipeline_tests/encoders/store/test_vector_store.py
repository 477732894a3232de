import logging
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.encoders.store.vector_store import Shard, StoreResult, VectorStore
from mmctr_pipeline_tests.encoders.store.vector_store_runs import (
    WIDTH,
    Encoder,
    key,
    run,
    shard_files,
    start_run,
)


def test_vectors_come_in_the_order_asked_for_each_content_encoded_once(tmp_path: Path) -> None:
    numbers = [5, 1, 5, 9, 2, 1, 5]
    encoder = Encoder(numbers)
    result = run(tmp_path, numbers, encoder, shard_size=100)
    assert encoder.encoded == [1, 2, 5, 9]
    assert result.vectors.dtype == np.float32
    np.testing.assert_array_equal(result.vectors[:, 0], np.float32(numbers) / np.float32(7))
    assert (result.n_encoded, result.n_reused, result.reasons) == (4, 0, {})


def test_encodes_in_the_order_of_the_keys(tmp_path: Path) -> None:
    encoder = Encoder(range(10))
    run(tmp_path, range(10), encoder, shard_size=4)
    assert [len(call) for call in encoder.calls] == [4, 4, 2]
    in_order = [number for call in encoder.calls for number in call]
    assert in_order == sorted(range(10), key=key)


def test_a_second_run_encodes_only_what_is_new(tmp_path: Path) -> None:
    before = run(tmp_path, range(10))
    encoder = Encoder(range(13))
    after = run(tmp_path, range(13), encoder)
    assert encoder.encoded == [10, 11, 12]
    np.testing.assert_array_equal(after.vectors[:10], before.vectors)
    assert (after.n_encoded, after.n_reused, after.reasons) == (3, 10, {})
    assert len(after.notes) == 4
    assert all(notes in after.notes for notes in before.notes)


def test_nothing_asked_for(tmp_path: Path) -> None:
    encoder = Encoder([])
    assert run(tmp_path, [], encoder).vectors.shape == (0, 0)
    assert encoder.calls == []


def test_keys_that_end_in_zeros_are_told_apart(tmp_path: Path) -> None:
    keys = [b"\1" + bytes(31), b"\1\0\1" + bytes(29), bytes(32), b"\1\0\1\1" + bytes(28)]
    store = VectorStore(tmp_path)
    for _ in range(2):
        result = store.get_or_encode(
            *("encoder", keys, lambda positions: Shard(positions[:, None].astype(np.float32))),
            shard_size=2,
            reader="",
        )
        assert result.vectors[:, 0].tolist() == [0, 1, 2, 3]
    assert result.n_encoded == 0


def test_identities_that_look_alike_share_nothing(tmp_path: Path) -> None:
    run(tmp_path, range(3), identity="a:b/c")
    encoder = Encoder(range(3))
    run(tmp_path, range(3), encoder, identity="a-b:c")
    assert encoder.encoded == [0, 1, 2]
    assert all(path.parent == tmp_path for path in tmp_path.iterdir())


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_a_killed_run_started_again_equals_an_undisturbed_one(tmp_path: Path, stop_at: int) -> None:
    process = start_run(tmp_path / "killed", 22, tmp_path / "result", stop_at=stop_at)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(shard_files(tmp_path / "killed")) == stop_at - 1

    encoder = Encoder(range(22), failing={3, 11})
    undisturbed = run(tmp_path / "undisturbed", range(22), encoder)
    again = Encoder(range(22), failing={3, 11})
    resumed = run(tmp_path / "killed", range(22), again)
    assert again.calls == encoder.calls[stop_at - 1 :]
    assert resumed.vectors.tobytes() == undisturbed.vectors.tobytes()
    assert resumed.reasons == undisturbed.reasons
    names = [path.name for path in shard_files(tmp_path / "killed")]
    assert names == [path.name for path in shard_files(tmp_path / "undisturbed")]


def test_failures_are_remembered_until_the_reader_changes(tmp_path: Path) -> None:
    numbers = [3, 1, 2, 3]
    first = run(tmp_path, numbers, Encoder(numbers, failing={3}))
    assert first.reasons == {0: "3 is truncated", 3: "3 is truncated"}
    assert (first.n_encoded, first.n_reused) == (2, 0)
    assert not first.vectors[[0, 3]].any()
    assert first.vectors[[1, 2]].any()

    same = Encoder(numbers)
    second = run(tmp_path, numbers, same)
    assert same.calls == []
    assert second.reasons == first.reasons
    assert (second.n_encoded, second.n_reused) == (0, 2)

    newer = Encoder(numbers)
    third = run(tmp_path, numbers, newer, reader="reader 2")
    assert newer.calls == [[3]]
    assert third.reasons == {}
    assert third.vectors[0].any()
    # What has a vector needs no reader any more.
    older = Encoder(numbers)
    assert run(tmp_path, numbers, older).reasons == {}
    assert older.calls == []


def test_a_shard_that_failed_wholly_is_replaced(tmp_path: Path) -> None:
    run(tmp_path, [1, 2], Encoder([1, 2], failing={1, 2}))
    run(tmp_path, [1, 2], reader="reader 2")
    assert len(shard_files(tmp_path)) == 1
    assert run(tmp_path, [1, 2], Encoder([])).n_reused == 2


def test_runs_at_once_share_the_work(tmp_path: Path) -> None:
    paths = [tmp_path / "one.npy", tmp_path / "two.npy"]
    processes = [start_run(tmp_path / "store", 40, path, step_by_step=True) for path in paths]
    for process in processes:
        assert process.stdout is not None
        # From here on both are inside a shard.
        assert process.stdout.readline() == "encoding\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n" * 20)
        process.stdin.flush()
    calls = [1 + process.communicate(timeout=60)[0].count("encoding") for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(calls) == 10
    undisturbed = run(tmp_path / "undisturbed", range(40), Encoder(range(40), failing={3, 11}))
    for path in paths:
        np.testing.assert_array_equal(np.load(path), undisturbed.vectors)
    assert list(tmp_path.glob("store/*/*.parquet.lock")) == []


def test_what_another_run_had_begun_when_it_died_is_encoded_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = start_run(tmp_path / "store", 12, tmp_path / "result", step_by_step=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "encoding\n"
    waits = threading.Event()

    class WaitsHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting" in record.getMessage():
                waits.set()

    logger = logging.getLogger("mmctr_pipeline.encoders.store.vector_store")
    handler = WaitsHandler()
    logger.addHandler(handler)
    caplog.set_level(logging.INFO)
    results: list[StoreResult] = []
    encoder = Encoder(range(12))
    work = threading.Thread(
        target=lambda: results.append(run(tmp_path / "store", range(12), encoder))
    )
    work.start()
    try:
        assert waits.wait(60)
        assert len(encoder.calls) == 2
    finally:
        other.kill()
        other.communicate()
        work.join(60)
        logger.removeHandler(handler)
    assert len(encoder.calls) == 3
    undisturbed = run(tmp_path / "undisturbed", range(12))
    np.testing.assert_array_equal(results[0].vectors, undisturbed.vectors)


def _bring(source: Path, target: Path) -> None:
    """Copy the shards of the one encoder in a store to another store."""
    for path in shard_files(source):
        (target / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path.parent.name)


@pytest.mark.parametrize("others", [[8], [9], [10], [11]])
def test_of_a_content_in_two_shards_the_first_by_name_is_taken(
    tmp_path: Path, others: list[int]
) -> None:
    results = {}
    for folder, numbers in {"a": [1, 2, 3], "b": [1, *others]}.items():
        results[folder] = run(tmp_path / folder, numbers).vectors[0]
        _bring(tmp_path / folder, tmp_path / "both")
    first = min("ab", key=lambda folder: shard_files(tmp_path / folder)[0].name)
    both = run(tmp_path / "both", [1], Encoder([]))
    assert not np.array_equal(results["a"], results["b"])
    np.testing.assert_array_equal(both.vectors[0], results[first])


@pytest.mark.parametrize("failing", [{"a"}, {"b"}])
def test_a_vector_is_taken_before_a_failure(tmp_path: Path, failing: set[str]) -> None:
    for folder, numbers in {"a": [1, 2, 3], "b": [1, 8]}.items():
        run(tmp_path / folder, numbers, Encoder(numbers, {1} if folder in failing else ()))
        _bring(tmp_path / folder, tmp_path / "both")
    both = run(tmp_path / "both", [1], Encoder([]))
    assert both.reasons == {}
    assert both.n_reused == 1
    assert both.vectors.any()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip_a_bit_of_a_vector(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # The second column of every vector of this shard.
    value = np.float32(sum([1, 2, 3, 4]) / 7).tobytes()
    content[content.index(value)] ^= 1
    path.write_bytes(content)


def _take_from_another_encoder(path: Path) -> None:
    run(path.parents[1], [1, 2, 3, 4], identity="encoder:2")
    (other,) = [other for other in shard_files(path.parents[1]) if other.parent != path.parent]
    shutil.copy(other, path)


def _take_other_contents(path: Path) -> None:
    run(path.parents[1] / "elsewhere", [5, 6])
    (other,) = shard_files(path.parents[1] / "elsewhere")
    shutil.copy(other, path)


@pytest.mark.parametrize(
    "damage",
    [
        *(_truncate, _empty, _flip_a_bit_of_a_vector),
        *(_take_from_another_encoder, _take_other_contents),
    ],
)
def test_a_damaged_shard_is_named_set_aside_and_encoded_again(
    tmp_path: Path, damage, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run(tmp_path, [1, 2, 3, 4])
    (path,) = shard_files(tmp_path)
    damage(path)
    # In another plan, so that the file is not simply written over.
    encoder = Encoder([4, 3, 2, 1, 7])
    result = run(tmp_path, [4, 3, 2, 1, 7], encoder, shard_size=9)
    assert encoder.encoded == [1, 2, 3, 4, 7]
    np.testing.assert_array_equal(result.vectors[:4, 0], whole.vectors[::-1, 0])
    assert (
        len([line for line in caplog.messages if str(path) in line and "renamed to" in line]) == 1
    )
    assert not path.exists()
    assert path.with_name(f"{path.name}.damaged").exists()

    later = Encoder([])
    caplog.clear()
    again = run(tmp_path, [4, 3, 2, 1, 7], later)
    np.testing.assert_array_equal(again.vectors, result.vectors)
    assert not [line for line in caplog.messages if "renamed to" in line]


def test_what_a_damaged_shard_gave_before_the_damage_is_not_used(tmp_path: Path) -> None:
    """Of a shard in two blocks the second is damaged; other shards say that all have failed."""
    n = 5_000
    run(tmp_path / "failed", range(n), Encoder(range(n), failing=range(n)), shard_size=999)
    _bring(tmp_path / "failed", tmp_path / "both")
    run(tmp_path / "damaged", range(n), shard_size=n)
    (path,) = shard_files(tmp_path / "damaged")
    content = bytearray(path.read_bytes())
    # Places inside the shard stand in the third column: the last one in the second block.
    content[content.rindex(np.float32((n - 1) / np.float32(7)).tobytes())] ^= 1
    path.write_bytes(content)
    _bring(tmp_path / "damaged", tmp_path / "both")
    result = run(tmp_path / "both", range(n), Encoder([]))
    assert result.reasons.keys() == set(range(n))
    assert not result.vectors.any()


def test_a_shard_that_vanishes_after_it_was_listed_is_missing(tmp_path: Path) -> None:
    run(tmp_path, [1, 2])
    (path,) = shard_files(tmp_path)
    path.unlink()
    path.symlink_to("gone")
    encoder = Encoder([1, 2])
    run(tmp_path, [1, 2], encoder)
    assert encoder.encoded == [1, 2]
    assert run(tmp_path, [1, 2], Encoder([])).n_reused == 2


def test_a_file_that_the_system_refuses_to_open_is_not_set_aside(tmp_path: Path) -> None:
    run(tmp_path, [1, 2])
    (path,) = shard_files(tmp_path)
    path.unlink()
    os.symlink(path.name, path)
    with pytest.raises(OSError, match="symbolic links"):
        run(tmp_path, [1, 2])
    assert path.is_symlink()


def test_an_error_of_the_encoder_loses_the_shard_in_flight_alone(tmp_path: Path) -> None:
    encoder = Encoder(range(12))

    def encode(positions: np.ndarray) -> Shard:
        if len(encoder.calls) == 2:
            raise RuntimeError("out of memory")
        return encoder(positions)

    with pytest.raises(RuntimeError, match="out of memory"):
        run(tmp_path, range(12), encode)
    again = Encoder(range(12))
    run(tmp_path, range(12), again)
    assert len(again.calls) == 1
    assert list(tmp_path.glob("*/*.parquet.lock")) == []


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        (Shard(np.zeros((3, WIDTH), np.float32)), r"shape \(3, 3\) for 2 contents"),
        (Shard(np.zeros(2, np.float32)), r"shape \(2,\)"),
        (Shard(np.array([[1], [np.nan]], np.float32)), "1 of 2 vectors .* not finite"),
        (Shard(np.zeros((2, WIDTH), np.float32), {7: "?"}), "row 7 of 2 contents"),
        (Shard(np.zeros((2, WIDTH + 1), np.float32)), "width 4 from the encoder"),
    ],
)
def test_what_the_encoder_gets_wrong_is_refused(tmp_path: Path, shard: Shard, message: str) -> None:
    run(tmp_path, [1])
    n_files = len(shard_files(tmp_path))
    with pytest.raises(ValueError, match=message):
        run(tmp_path, [1, 2, 3], lambda positions: shard)
    assert len(shard_files(tmp_path)) == n_files


def test_what_stands_in_the_row_of_a_failure_is_ignored(tmp_path: Path) -> None:
    def encode(positions: np.ndarray) -> Shard:
        vectors = np.full((2, WIDTH), np.nan, np.float32)
        vectors[positions == 0] = 5
        return Shard(vectors, {int(np.flatnonzero(positions == 1)[0]): "empty"})

    for _ in range(2):
        result = run(tmp_path, [1, 2], encode)
        np.testing.assert_array_equal(result.vectors, [[5] * WIDTH, [0] * WIDTH])
        assert result.reasons == {1: "empty"}


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard_size is 0"):
        run(tmp_path, [1], shard_size=0)
    with pytest.raises(ValueError, match="content 1 is 31 bytes long"):
        VectorStore(tmp_path).get_or_encode(
            *("encoder", [bytes(32), bytes(31)], Encoder([1, 2])),
            shard_size=1,
            reader="",
        )


def test_the_log_says_what_is_remembered_and_what_is_to_encode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, range(1_200), shard_size=2_000)
    caplog.set_level(logging.INFO)
    run(tmp_path, [*range(1_203), 0])
    assert caplog.messages[0] == "1,203 distinct titles: 1,200 stored, 3 to encode"
    assert caplog.messages[1].startswith("encoded 3 titles in ")


def test_a_damaged_record_of_use_does_not_stop_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, [1, 2])
    (record,) = tmp_path.glob("*/last_used.parquet")
    record.write_bytes(b"PAR1")
    assert run(tmp_path, [1, 2], Encoder([])).n_reused == 2
    assert str(record) in caplog.messages[0]
    caplog.clear()
    run(tmp_path, [1, 2])
    assert not [line for line in caplog.messages if str(record) in line]
