"""Parquet artefacts: every flipped bit is noticed or changes nothing; earlier files are read."""

import os
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.parquet import open_parquet, read_parquet, write_parquet
from mmctr_pipeline_tests.files.flipped_bits import all_bits, count_unnoticed

TABLE = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int32()),
        "title": ["a", None, "ü"],
        "tags": pa.array([[1, 2], [], None], pa.list_(pa.field("element", pa.int64()))),
        "vector": pa.array([[0.5, 1.5]] * 3, pa.list_(pa.field("element", pa.float32()), 2)),
    }
).replace_schema_metadata({"mmctr.identity": "an encoder", "mmctr.provenance": '{"n": 3}'})


@pytest.fixture(name="path")
def written_path(tmp_path: Path) -> Path:
    path = tmp_path / "table.parquet"
    write_parquet(TABLE, path)
    return path


@pytest.mark.parametrize("raw", [False, True])
def test_tables_are_read_back_with_their_metadata(tmp_path: Path, raw: bool) -> None:
    path = tmp_path / "table.parquet"
    write_parquet(TABLE, path, raw=raw)
    table = read_parquet(path)
    assert table.equals(TABLE, check_metadata=True)
    assert read_parquet(path, ["title"]).column_names == ["title"]


def test_writing_a_table_that_was_read_gives_the_same_bytes(path: Path) -> None:
    first = path.read_bytes()
    assert write_parquet(read_parquet(path), path)
    assert path.read_bytes() == first


def test_other_libraries_read_the_file_and_find_its_page_checksums(path: Path) -> None:
    assert pl.read_parquet(path)["title"].to_list() == ["a", None, "ü"]
    assert len(pd.read_parquet(path)) == 3
    assert pq.read_table(path, page_checksum_verification=True).num_rows == 3


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tiny.parquet"
    table = pa.table({"x": pa.array([7, 8], pa.int32())})
    write_parquet(table.replace_schema_metadata({"k": "v"}), path, raw=True)
    bits = all_bits(path)
    # A flip in the checksum's entry may hide the entry; the bound allows 24 bytes for that.
    assert count_unnoticed(path, lambda: read_parquet(path), bits) <= 8 * 24 < len(bits) / 10


def test_damaged_metadata_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"an encoder", b"an encodes"))
    with pytest.raises(DamagedFileError, match=r"table\.parquet is damaged: its checksum is"):
        read_parquet(path)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_noticed(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(DamagedFileError, match=r"table\.parquet is damaged"):
        read_parquet(path)


def test_a_file_without_checksums_is_read(path: Path) -> None:
    pq.write_table(TABLE, path)
    assert read_parquet(path).equals(TABLE, check_metadata=True)


def test_page_checksums_are_verified_in_a_file_without_a_file_checksum(path: Path) -> None:
    pq.write_table(TABLE, path, write_page_checksum=True, compression="none", use_dictionary=False)
    assert read_parquet(path).equals(TABLE)
    content = bytearray(path.read_bytes())
    content[content.index(TABLE.column("vector").chunk(0).flatten().to_numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="CRC checksum"):
        read_parquet(path)


def test_a_file_replaced_by_another_one_is_noticed(path: Path, tmp_path: Path) -> None:
    expected = write_parquet(TABLE, path)
    assert read_parquet(path, expected=expected).num_rows == 3
    write_parquet(TABLE.slice(1), path)
    with pytest.raises(DamagedFileError, match="not the file that was written with the others"):
        read_parquet(path, expected=expected)
    pq.write_table(TABLE, path)
    with pytest.raises(DamagedFileError, match="not the file that was written with the others"):
        read_parquet(path, expected=expected)


def test_a_missing_file_or_a_folder_is_not_reported_as_damage(path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "none.parquet")
    with pytest.raises(IsADirectoryError):
        read_parquet(tmp_path)


def test_errors_of_the_caller_pass_unchanged(path: Path) -> None:
    with pytest.raises(ValueError, match="of the caller") as raised, open_parquet(path):
        raise ValueError("of the caller")
    assert type(raised.value) is ValueError


def test_metadata_that_look_like_the_checksum_entry_are_left_alone(path: Path) -> None:
    """Metadata hold names that users choose, and a name may look like the checksum's entry."""
    hostile = TABLE.replace_schema_metadata({"name": "mmctr.crc32: 00000000", "z": "mmctr.crc32"})
    write_parquet(hostile, path)
    assert read_parquet(path).equals(hostile, check_metadata=True)
