"""The vector store encodes each content once and returns equal vectors."""

import itertools
import logging
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.encoders.store.vector_store import Shard, StoreResult, VectorStore
from mmctr_pipeline.files.progress import Advance
from mmctr_pipeline_tests.encoders.store.vector_store_runs import (
    WIDTH,
    Encoder,
    copy_shards,
    key,
    run,
    shard_files,
    start_run,
)


def test_vectors_are_in_requested_order_and_each_content_is_encoded_once(tmp_path: Path) -> None:
    numbers = [5, 1, 5, 9, 2, 1, 5]
    encoder = Encoder(numbers)
    result = run(tmp_path, numbers, encoder, shard_size=100)
    assert encoder.encoded == [1, 2, 5, 9]
    assert result.vectors.dtype == np.float32
    np.testing.assert_array_equal(result.vectors[:, 0], np.float32(numbers) / np.float32(7))
    assert (result.n_encoded, result.n_reused, result.reasons) == (4, 0, {})


def test_contents_are_encoded_in_the_order_of_their_keys(tmp_path: Path) -> None:
    encoder = Encoder(range(10))
    run(tmp_path, range(10), encoder, shard_size=4)
    assert [len(call) for call in encoder.calls] == [4, 4, 2]
    in_order = [number for call in encoder.calls for number in call]
    assert in_order == sorted(range(10), key=key)


def test_second_run_encodes_only_new_contents(tmp_path: Path) -> None:
    before = run(tmp_path, range(10))
    encoder = Encoder(range(13))
    after = run(tmp_path, range(13), encoder)
    assert encoder.encoded == [10, 11, 12]
    np.testing.assert_array_equal(after.vectors[:10], before.vectors)
    assert (after.n_encoded, after.n_reused, after.reasons) == (3, 10, {})
    assert len(after.notes) == 4
    assert all(notes in after.notes for notes in before.notes)


def test_empty_request_encodes_nothing(tmp_path: Path) -> None:
    encoder = Encoder([])
    assert run(tmp_path, [], encoder).vectors.shape == (0, 0)
    assert encoder.calls == []


def test_keys_that_end_in_zeros_are_distinct(tmp_path: Path) -> None:
    keys = [b"\1" + bytes(31), b"\1\0\1" + bytes(29), bytes(32), b"\1\0\1\1" + bytes(28)]
    store = VectorStore(tmp_path)
    for _ in range(2):
        result = store.get_or_encode(
            *("encoder", keys, lambda positions, _: Shard(positions[:, None].astype(np.float32))),
            shard_size=2,
            reader="",
        )
        assert result.vectors[:, 0].tolist() == [0, 1, 2, 3]
    assert result.n_encoded == 0


def test_similar_identities_share_nothing(tmp_path: Path) -> None:
    run(tmp_path, range(3), identity="a:b/c")
    encoder = Encoder(range(3))
    run(tmp_path, range(3), encoder, identity="a-b:c")
    assert encoder.encoded == [0, 1, 2]
    assert all(path.parent == tmp_path for path in tmp_path.iterdir())


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_run_restarted_after_a_kill_equals_an_undisturbed_one(tmp_path: Path, stop_at: int) -> None:
    process = start_run(tmp_path / "killed", 22, tmp_path / "result", stop_at=stop_at)
    process.communicate(timeout=900)
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


def test_failures_are_stored_until_the_reader_changes(tmp_path: Path) -> None:
    numbers = [3, 1, 2, 3]
    first = run(tmp_path, numbers, Encoder(numbers, failing={3}))
    assert first.reasons == {0: "3 is truncated", 3: "3 is truncated"}
    assert (first.n_encoded, first.n_reused) == (2, 0)
    assert not first.vectors[[0, 3]].any()
    assert first.vectors[[1, 2]].any()

    same_reader = Encoder(numbers)
    second = run(tmp_path, numbers, same_reader)
    assert same_reader.calls == []
    assert second.reasons == first.reasons
    assert (second.n_encoded, second.n_reused) == (0, 2)

    new_reader = Encoder(numbers)
    third = run(tmp_path, numbers, new_reader, reader="reader 2")
    assert new_reader.calls == [[3]]
    assert third.reasons == {}
    assert third.vectors[0].any()
    # A content with a vector does not depend on the reader.
    old_reader = Encoder(numbers)
    assert run(tmp_path, numbers, old_reader).reasons == {}
    assert old_reader.calls == []


def test_shard_of_only_failures_is_replaced(tmp_path: Path) -> None:
    run(tmp_path, [1, 2], Encoder([1, 2], failing={1, 2}))
    run(tmp_path, [1, 2], reader="reader 2")
    assert len(shard_files(tmp_path)) == 1
    assert run(tmp_path, [1, 2], Encoder([])).n_reused == 2


def test_concurrent_runs_share_the_work(tmp_path: Path) -> None:
    paths = [tmp_path / "one.npy", tmp_path / "two.npy"]
    processes = [start_run(tmp_path / "store", 40, path, step_by_step=True) for path in paths]
    for process in processes:
        assert process.stdout is not None
        # From here on both are encoding a shard.
        assert process.stdout.readline() == "encoding\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n" * 20)
        process.stdin.flush()
    calls = [1 + process.communicate(timeout=900)[0].count("encoding") for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(calls) == 10
    undisturbed = run(tmp_path / "undisturbed", range(40), Encoder(range(40), failing={3, 11}))
    for path in paths:
        np.testing.assert_array_equal(np.load(path), undisturbed.vectors)
    assert list(tmp_path.glob("store/*/*.parquet.lock")) == []


def test_shard_of_a_killed_concurrent_run_is_encoded_by_the_waiting_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = start_run(tmp_path / "store", 12, tmp_path / "result", step_by_step=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "encoding\n"
    is_waiting = threading.Event()

    class WaitingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting" in record.getMessage():
                is_waiting.set()

    logger = logging.getLogger("mmctr_pipeline.encoders.store.vector_store")
    handler = WaitingHandler()
    logger.addHandler(handler)
    caplog.set_level(logging.INFO)
    results: list[StoreResult] = []
    encoder = Encoder(range(12))
    work = threading.Thread(
        target=lambda: results.append(run(tmp_path / "store", range(12), encoder))
    )
    work.start()
    try:
        assert is_waiting.wait(900)
        assert len(encoder.calls) == 2
    finally:
        other.kill()
        other.communicate()
        work.join(900)
        logger.removeHandler(handler)
    assert len(encoder.calls) == 3
    undisturbed = run(tmp_path / "undisturbed", range(12))
    np.testing.assert_array_equal(results[0].vectors, undisturbed.vectors)


@pytest.mark.parametrize("others", [[8], [9], [10], [11]])
def test_content_in_two_shards_is_taken_from_the_first_by_name(
    tmp_path: Path, others: list[int]
) -> None:
    results = {}
    for folder, numbers in {"a": [1, 2, 3], "b": [1, *others]}.items():
        results[folder] = run(tmp_path / folder, numbers).vectors[0]
        copy_shards(tmp_path / folder, tmp_path / "both")
    first = min("ab", key=lambda folder: shard_files(tmp_path / folder)[0].name)
    both = run(tmp_path / "both", [1], Encoder([]))
    assert not np.array_equal(results["a"], results["b"])
    np.testing.assert_array_equal(both.vectors[0], results[first])


@pytest.mark.parametrize("failing", [{"a"}, {"b"}])
def test_vector_is_preferred_to_a_failure(tmp_path: Path, failing: set[str]) -> None:
    for folder, numbers in {"a": [1, 2, 3], "b": [1, 8]}.items():
        run(tmp_path / folder, numbers, Encoder(numbers, {1} if folder in failing else ()))
        copy_shards(tmp_path / folder, tmp_path / "both")
    both = run(tmp_path / "both", [1], Encoder([]))
    assert both.reasons == {}
    assert both.n_reused == 1
    assert both.vectors.any()


def test_encoder_error_loses_only_the_current_shard(tmp_path: Path) -> None:
    encoder = Encoder(range(12))

    def encode(positions: np.ndarray, advance: Advance) -> Shard:
        if len(encoder.calls) == 2:
            raise RuntimeError("out of memory")
        return encoder(positions, advance)

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
def test_invalid_encoder_results_raise(tmp_path: Path, shard: Shard, message: str) -> None:
    run(tmp_path, [1])
    n_files = len(shard_files(tmp_path))
    with pytest.raises(ValueError, match=message):
        run(tmp_path, [1, 2, 3], lambda *_: shard)
    assert len(shard_files(tmp_path)) == n_files


def test_vector_in_the_row_of_a_failure_is_ignored(tmp_path: Path) -> None:
    def encode(positions: np.ndarray, advance: Advance) -> Shard:
        vectors = np.full((2, WIDTH), np.nan, np.float32)
        vectors[positions == 0] = 5
        return Shard(vectors, {int(np.flatnonzero(positions == 1)[0]): "empty"})

    for _ in range(2):
        result = run(tmp_path, [1, 2], encode)
        np.testing.assert_array_equal(result.vectors, [[5] * WIDTH, [0] * WIDTH])
        assert result.reasons == {1: "empty"}


def test_invalid_arguments_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard_size is 0"):
        run(tmp_path, [1], shard_size=0)
    with pytest.raises(ValueError, match="content 1 is 31 bytes long"):
        VectorStore(tmp_path).get_or_encode(
            *("encoder", [bytes(32), bytes(31)], Encoder([1, 2])),
            shard_size=1,
            reader="",
        )


def test_progress_counts_within_a_shard_and_each_content_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=10)
    monkeypatch.setattr("mmctr_pipeline.files.progress.time.monotonic", lambda: next(clock))
    caplog.set_level(logging.INFO)

    def encode(positions: np.ndarray, advance: Advance) -> Shard:
        advance(2)
        return Encoder(range(9))(positions, advance)

    run(tmp_path, range(9), encode, shard_size=5)
    counts = [line.split()[1] for line in caplog.messages if line.startswith("encoding: ")]
    assert counts == ["2", "5", "7"]


def test_log_counts_stored_and_missing_contents(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, range(1_200), shard_size=2_000)
    caplog.set_level(logging.INFO)
    run(tmp_path, [*range(1_203), 0])
    assert caplog.messages[0] == "1,203 distinct titles: 1,200 stored, 3 to encode"
    assert caplog.messages[1].startswith("encoded 3 titles in ")
