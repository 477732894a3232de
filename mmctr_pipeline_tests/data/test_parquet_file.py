"""Parquet files with legacy lists, damage or encryption are read correctly or refused."""

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from mmctr_pipeline.data.schemas import LABELLED_COLUMNS
from mmctr_pipeline.data.tables import open_table
from mmctr_pipeline_tests.data import small_data
from mmctr_pipeline_tests.data.parquet_footers import (
    I64,
    N_ROWS,
    Struct,
    claim_lzo,
    edit_footer,
    write_without_list_group,
)
from mmctr_pipeline_tests.data.read_folders import (
    assert_equal,
    expect_data_error,
    many_rows,
    read_folder,
)


@pytest.mark.parametrize("n_rows", [2, 600])
@pytest.mark.parametrize(
    "options",
    [{}, {"row_group_size": 100}, {"data_page_size": 64, "use_dictionary": False}],
    ids=["plain", "row_groups", "small_pages"],
)
@pytest.mark.parametrize("is_padded", [True, False], ids=["padded", "ragged"])
def test_a_repeated_column_without_a_list_group_is_read(
    tmp_path: Path, n_rows: int, options: dict[str, Any], is_padded: bool
) -> None:
    columns = many_rows(n_rows)
    if not is_padded:
        lists = [[item for item in history if item] for history in columns["item_seq"]]
        columns["item_seq"] = pa.array(lists, pa.list_(pa.int64()))
    expected = read_folder(small_data.write_data(tmp_path / "list", train=columns))
    root = small_data.write_data(tmp_path / "repeated")
    path = write_without_list_group(
        root / "train.parquet", pa.table(columns), "item_seq", **options
    )
    assert "repeated int64 field_id=-1 item_seq" in str(pq.ParquetFile(path).schema)
    assert_equal(read_folder(root), expected)


def test_a_file_that_claims_more_rows_than_it_has_is_refused(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)

    def claim(footer: Struct) -> None:
        footer[N_ROWS] = (I64, 2**20)

    edit_footer(root / "train.parquet", claim)
    error = expect_data_error(root)
    assert error.file == root / "train.parquet"
    assert "claims 1,048,576 rows but has 4" in str(error)


def _damage(path: Path, column: str, row_group: int = 0) -> None:
    """Change four bytes in the middle of a column's pages."""
    group = pq.read_metadata(path).row_group(row_group)
    chunks = {
        chunk.path_in_schema.split(".")[0]: chunk
        for chunk in map(group.column, range(group.num_columns))
    }
    content = bytearray(path.read_bytes())
    middle = chunks[column].data_page_offset + chunks[column].total_compressed_size // 2
    for position in range(middle, middle + 4):
        content[position] ^= 0xFF
    path.write_bytes(content)


_WITH_CHECKSUMS = {"write_page_checksum": True, "row_group_size": 200, "use_dictionary": False}


@pytest.mark.parametrize("column", ["user_id", "item_id", "item_seq", "likes_level", "label"])
def test_a_damaged_page_is_named_by_file_column_and_rows(tmp_path: Path, column: str) -> None:
    root = small_data.write_data(tmp_path)
    pq.write_table(pa.table(many_rows()), root / "train.parquet", **_WITH_CHECKSUMS)
    _damage(root / "train.parquet", column, row_group=1)
    error = expect_data_error(root)
    assert (error.file, error.column) == (root / "train.parquet", column)
    assert "rows 200 to 399 (row group 1) cannot be read" in str(error)
    assert "CRC" in str(error)
    assert "copy or download the file again" in error.fix


def test_damage_in_a_part_file_is_named(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    (root / "train.parquet").unlink()
    for number in range(2):
        path = root / "train.parquet" / f"part-{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(many_rows()), path, **_WITH_CHECKSUMS)
    _damage(path, "item_seq", row_group=2)
    error = expect_data_error(root)
    assert (error.file, error.column) == (path, "item_seq")
    assert "rows 400 to 599" in str(error)


def test_a_damaged_item_table_is_named(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    path = root / "item_feature.parquet"
    pq.write_table(pa.table(small_data.item_feature()), path, **_WITH_CHECKSUMS)
    _damage(path, "item_title")
    error = expect_data_error(root)
    assert (error.file, error.column) == (path, "item_title")


def test_a_file_cut_in_the_middle_is_refused(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path, train=many_rows())
    path = root / "train.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    error = expect_data_error(root)
    assert error.file == path
    assert "not a readable parquet file" in str(error)


def test_a_hole_of_zeros_in_the_middle_is_located(tmp_path: Path) -> None:
    # An interrupted download into reserved space leaves zeros. This file has no page checksums.
    root = small_data.write_data(tmp_path, train=many_rows(5_000))
    path = root / "train.parquet"
    content = bytearray(path.read_bytes())
    content[1_000:6_000] = bytes(5_000)
    path.write_bytes(content)
    error = expect_data_error(root)
    assert error.file == path
    assert error.column is not None
    assert "rows 0 to 4,999 (row group 0) cannot be read" in str(error)


def test_a_destroyed_page_header_is_named_in_one_line(tmp_path: Path) -> None:
    # Arrow's own message has two lines.
    path = small_data.write_data(tmp_path, train=many_rows(5_000)) / "train.parquet"
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)
    error = expect_data_error(path.parent)
    assert "column user_id: rows 0 to 4,999 (row group 0) cannot be read" in str(error)
    assert len(str(error).splitlines()) == 1


def test_an_unsupported_codec_is_named(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    claim_lzo(root / "train.parquet", "views_level")
    error = expect_data_error(root)
    assert (error.file, error.column) == (root / "train.parquet", "views_level")
    assert "common codec" in error.fix


@pytest.mark.parametrize("kind", ["damaged", "lzo", "nested", "twice", "dotted"])
def test_a_faulty_column_that_is_not_needed_does_not_matter(tmp_path: Path, kind: str) -> None:
    columns: dict[str, Any] = {**small_data.train(), "other": [1, 2, 3, 4]}
    if kind == "nested":
        columns["other"] = [{"item_seq": [[1]], "label": {"x": 1.5}}] * 4
    if kind == "dotted":
        columns["item_seq.list.element"] = columns.pop("other")
    table = pa.table(columns)
    if kind == "twice":
        table = table.append_column("other", table["label"])
    root = small_data.write_data(tmp_path / "data")
    path = root / "train.parquet"
    pq.write_table(table, path, write_page_checksum=True, use_dictionary=False)
    if kind == "damaged":
        _damage(path, "other")
        with pytest.raises(OSError, match="CRC"):
            pq.ParquetFile(path, page_checksum_verification=True).read()
    if kind == "lzo":
        claim_lzo(path, "other")
    assert_equal(read_folder(root), read_folder(small_data.write_data(tmp_path / "plain")))


_READING_PROGRAM = """
import sys
from pathlib import Path
from mmctr_pipeline.data.schemas import LABELLED_COLUMNS
from mmctr_pipeline.data.tables import open_table
from mmctr_pipeline.data.validation import DataError
try:
    with open_table(Path(sys.argv[1]), LABELLED_COLUMNS) as file:
        print(len(file.read(["label", "item_seq"])))
except DataError as error:
    print(error)
"""


class _Kms(pe.KmsClient):
    """Keeps no secrets: a wrapped key is the key in base64."""

    def __init__(self, _config: pe.KmsConnectionConfig) -> None:
        pe.KmsClient.__init__(self)

    def wrap_key(self, key_bytes: bytes, _master_key: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, _master_key: str) -> bytes:
        return base64.b64decode(wrapped_key)


def _write_encrypted(path: Path, table: pa.Table, column: str, is_footer_plain: bool) -> None:
    name = f"{column}.list.element" if column == "item_seq" else column
    config = pe.EncryptionConfiguration(
        footer_key="f", column_keys={"k": [name]}, plaintext_footer=is_footer_plain
    )
    factory = pe.CryptoFactory(_Kms)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("column", "is_footer_plain", "expected"),
    [
        ("other", True, "4"),
        ("label", True, "column label: the column is encrypted"),
        ("item_seq", True, "column item_seq: the column is encrypted"),
        ("other", False, "not a readable parquet file"),
    ],
    ids=["not_needed", "label", "history", "footer"],
)
def test_encryption_matters_only_in_columns_that_are_needed(
    tmp_path: Path, column: str, is_footer_plain: bool, expected: str
) -> None:
    path = tmp_path / "train.parquet"
    table = pa.table({**small_data.train(), "other": [1, 2, 3, 4]})
    _write_encrypted(path, table, column, is_footer_plain)
    # A process of its own reads the file, as pyarrow may crash.
    command = [sys.executable, "-c", _READING_PROGRAM, str(path)]
    reading = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert reading.returncode == 0, reading.stderr
    assert expected in reading.stdout


def test_files_with_and_without_page_checksums_are_read(tmp_path: Path) -> None:
    table = pa.table(small_data.train())
    for has_checksums in (True, False):
        path = tmp_path / f"{has_checksums}.parquet"
        pq.write_table(table, path, write_page_checksum=has_checksums)
        with open_table(path, LABELLED_COLUMNS) as file:
            assert file.read(["label"]).column("label").to_pylist() == [1, 0, 0, 1]
            assert (file.n_rows, file.schema.names) == (4, table.schema.names)
