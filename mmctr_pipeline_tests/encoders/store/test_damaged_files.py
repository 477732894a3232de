"""Damaged files of the vector store are detected, and do not stop a run."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline_tests.encoders.store.vector_store_runs import (
    Encoder,
    copy_shards,
    run,
    shard_files,
)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip_a_bit_of_a_vector(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # Every vector of this shard has this value in its second column.
    value = np.float32(sum([1, 2, 3, 4]) / 7).tobytes()
    content[content.index(value)] ^= 1
    path.write_bytes(content)


def _replace_by_a_shard_of_another_encoder(path: Path) -> None:
    run(path.parents[1], [1, 2, 3, 4], identity="encoder:2")
    (other,) = [other for other in shard_files(path.parents[1]) if other.parent != path.parent]
    shutil.copy(other, path)


def _replace_by_a_shard_of_other_contents(path: Path) -> None:
    run(path.parents[1] / "elsewhere", [5, 6])
    (other,) = shard_files(path.parents[1] / "elsewhere")
    shutil.copy(other, path)


@pytest.mark.parametrize(
    "damage",
    [
        *(_truncate, _empty, _flip_a_bit_of_a_vector),
        *(_replace_by_a_shard_of_another_encoder, _replace_by_a_shard_of_other_contents),
    ],
)
def test_damaged_shard_is_logged_renamed_and_encoded_again(
    tmp_path: Path, damage, caplog: pytest.LogCaptureFixture
) -> None:
    intact = run(tmp_path, [1, 2, 3, 4])
    (path,) = shard_files(tmp_path)
    damage(path)
    # These numbers make a shard of another name, so that the file is not simply overwritten.
    encoder = Encoder([4, 3, 2, 1, 7])
    result = run(tmp_path, [4, 3, 2, 1, 7], encoder, shard_size=9)
    assert encoder.encoded == [1, 2, 3, 4, 7]
    np.testing.assert_array_equal(result.vectors[:4, 0], intact.vectors[::-1, 0])
    (line,) = [line for line in caplog.messages if "renamed to" in line]
    assert str(path) in line
    assert not path.exists()
    assert path.with_name(f"{path.name}.damaged").exists()

    caplog.clear()
    again = run(tmp_path, [4, 3, 2, 1, 7], Encoder([]))
    np.testing.assert_array_equal(again.vectors, result.vectors)
    assert not [line for line in caplog.messages if "renamed to" in line]


def test_vectors_before_the_damage_in_a_shard_are_not_used(tmp_path: Path) -> None:
    """The end of a large shard is damaged; other shards record all contents as failed."""
    n = 5_000
    run(tmp_path / "failed", range(n), Encoder(range(n), failing=range(n)), shard_size=999)
    copy_shards(tmp_path / "failed", tmp_path / "both")
    run(tmp_path / "damaged", range(n), shard_size=n)
    (path,) = shard_files(tmp_path / "damaged")
    content = bytearray(path.read_bytes())
    # The third column holds positions in the shard; damage the last one.
    content[content.rindex(np.float32((n - 1) / np.float32(7)).tobytes())] ^= 1
    path.write_bytes(content)
    copy_shards(tmp_path / "damaged", tmp_path / "both")
    result = run(tmp_path / "both", range(n), Encoder([]))
    assert result.reasons.keys() == set(range(n))
    assert not result.vectors.any()


def test_shard_that_vanishes_after_listing_is_encoded_again(tmp_path: Path) -> None:
    run(tmp_path, [1, 2])
    (path,) = shard_files(tmp_path)
    path.unlink()
    path.symlink_to("gone")
    encoder = Encoder([1, 2])
    run(tmp_path, [1, 2], encoder)
    assert encoder.encoded == [1, 2]
    assert run(tmp_path, [1, 2], Encoder([])).n_reused == 2


def test_file_that_the_system_cannot_open_is_not_renamed(tmp_path: Path) -> None:
    run(tmp_path, [1, 2])
    (path,) = shard_files(tmp_path)
    path.unlink()
    os.symlink(path.name, path)
    with pytest.raises(OSError, match="symbolic links"):
        run(tmp_path, [1, 2])
    assert path.is_symlink()


def test_damaged_record_of_use_does_not_stop_a_run(
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
