"""Shards that are encoded together give the files of a run that encodes one after the other."""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.encoders.store.vector_store import (
    EncodeTogether,
    Shard,
    StoreResult,
    VectorStore,
)
from mmctr_pipeline_tests.encoders.store.vector_store_runs import (
    Encoder,
    key,
    run,
    shard_files,
    start_run,
)

NUMBERS = range(10)


def run_together(folder: Path, encode_together: EncodeTogether) -> StoreResult:
    return VectorStore(folder).get_or_encode(
        "encoder:1",
        [key(number) for number in NUMBERS],
        Encoder([]),  # not used
        shard_size=4,
        reader="reader 1",
        encode_together=encode_together,
    )


class Together:
    """Encodes all shards, and yields the last one first."""

    def __init__(self, failing: Collection[int] = ()) -> None:
        self.encoder = Encoder(NUMBERS, failing)

    def __call__(self, shards: Sequence[np.ndarray]) -> Iterator[tuple[int, Shard]]:
        for number in reversed(range(len(shards))):
            yield number, self.encoder(shards[number], lambda _: None)


def test_files_and_vectors_equal_those_of_a_run_without_it(tmp_path: Path) -> None:
    expected = run(tmp_path / "alone", NUMBERS, Encoder(NUMBERS, {3}))
    found = run_together(tmp_path / "together", Together({3}))
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert found.reasons == expected.reasons
    assert found.n_encoded == expected.n_encoded == 9
    files = [
        [(path.name, path.read_bytes()) for path in shard_files(tmp_path / name)]
        for name in ("alone", "together")
    ]
    assert files[0] == files[1]
    assert list(tmp_path.glob("together/*/*.parquet.lock")) == []


def test_only_missing_shards_are_encoded_and_nothing_if_all_are_stored(tmp_path: Path) -> None:
    run(tmp_path, NUMBERS)
    lost = shard_files(tmp_path)[1]
    lost.unlink()
    together = Together()
    run_together(tmp_path, together)
    assert len(together.encoder.calls) == 1
    assert lost.is_file()
    run_together(tmp_path, together)
    assert len(together.encoder.calls) == 1


def test_an_error_loses_only_the_shards_that_are_not_back(tmp_path: Path) -> None:
    def fail_after_two(shards: Sequence[np.ndarray]) -> Iterator[tuple[int, Shard]]:
        for number, (index, shard) in enumerate(Together()(shards)):
            if number == 2:
                raise RuntimeError("out of memory")
            yield index, shard

    with pytest.raises(RuntimeError, match="out of memory"):
        run_together(tmp_path, fail_after_two)
    assert len(shard_files(tmp_path)) == 2
    assert list(tmp_path.glob("*/*.parquet.lock")) == []
    again = Together()
    run_together(tmp_path, again)
    assert len(again.encoder.calls) == 1


def test_a_shard_that_does_not_come_back_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="2 of 3 shards were encoded"):
        run_together(tmp_path, lambda shards: iter(list(Together()(shards))[1:]))


def test_what_the_encoder_returns_is_validated(tmp_path: Path) -> None:
    wrong = Shard(np.full((4, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"4 of 4 vectors .* not finite"):
        run_together(tmp_path, lambda _: iter([(0, wrong)]))
    assert shard_files(tmp_path) == []


def test_a_shard_claimed_by_another_run_is_taken_from_it(tmp_path: Path) -> None:
    process = start_run(tmp_path, len(NUMBERS), tmp_path / "result.npy", step_by_step=True)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "encoding\n"  # it holds the claim of one shard
    together, results = Together(), []
    thread = threading.Thread(target=lambda: results.append(run_together(tmp_path, together)))
    thread.start()
    while len(shard_files(tmp_path)) < 2:  # the other shards
        time.sleep(0.01)
    process.communicate("\n\n\n", timeout=60)
    thread.join(timeout=60)
    assert process.returncode == 0
    assert len(together.encoder.calls) == 2
    np.testing.assert_array_equal(results[0].vectors, np.load(tmp_path / "result.npy"))


def test_a_shard_of_a_run_that_dies_is_encoded(tmp_path: Path) -> None:
    process = start_run(tmp_path, len(NUMBERS), tmp_path / "result.npy", step_by_step=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "encoding\n"
    together, results = Together(), []
    thread = threading.Thread(target=lambda: results.append(run_together(tmp_path, together)))
    thread.start()
    while len(shard_files(tmp_path)) < 2:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    thread.join(timeout=60)
    assert len(together.encoder.calls) == 3
    assert len(shard_files(tmp_path)) == 3
