"""Part files, CSV, legacy lists, damage and encryption: read rightly, or refused by name."""

import base64
import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from mmctr_pipeline.data import csv_file
from mmctr_pipeline.data.build import build_dataset, read_test_ids
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.fingerprint import fingerprint_files
from mmctr_pipeline.data.schemas import LABELLED_COLUMNS
from mmctr_pipeline.data.tables import open_table
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline_tests.data import small_data
from mmctr_pipeline_tests.data.csv_tables import write_csv
from mmctr_pipeline_tests.data.parquet_footers import (
    I32,
    I64,
    N_ROWS,
    Struct,
    chunks,
    edit_footer,
    without_list_group,
)

_TABLES = ("train", "valid", "test", "item_feature")


def _build(root: Path) -> CtrDataset:
    return build_dataset(find_data(root))


def _fault(root: Path) -> DataError:
    with pytest.raises(DataError) as error:
        _build(root)
    assert error.value.fix
    return error.value


def assert_equal(one: CtrDataset, other: CtrDataset) -> None:
    """Check that two datasets have the same rows, histories and items."""
    for name, split in one.splits.items():
        for column, values in split.columns.items():
            assert values.tolist() == other.splits[name].columns[column].tolist(), column
    assert [each.tolist() for each in one.histories] == [each.tolist() for each in other.histories]
    assert one.items.title.to_pylist() == other.items.title.to_pylist()
    assert [each.tolist() for each in one.items.tags] == [
        each.tolist() for each in other.items.tags
    ]


def _many_rows(n_rows: int = 600, width: int = 5) -> dict[str, Any]:
    random = np.random.default_rng(7)
    lengths = random.integers(0, width + 1, n_rows)
    ids = random.integers(1, 10, (n_rows, width))
    ids[np.arange(width) < (width - lengths)[:, None]] = 0
    return {
        "user_id": random.integers(1, 40, n_rows),
        "item_id": random.integers(1, 10, n_rows),
        "item_seq": ids.tolist(),
        "likes_level": random.integers(0, 11, n_rows),
        "views_level": random.integers(0, 11, n_rows),
        "label": np.arange(n_rows) % 2,
    }


def _in_parts(path: Path, n_parts: int = 3) -> Path:
    """Replace a parquet file by a folder of part files with the same rows."""
    table = pq.read_table(path)
    path.unlink()
    path.mkdir()
    ends = np.linspace(0, len(table), n_parts + 1).astype(int)
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        part = table.slice(start, end - start)
        pq.write_table(part, path / f"part-{number:05}.parquet")
    return path


def test_part_files_are_read_as_one_table(tmp_path: Path) -> None:
    columns = _many_rows()
    expected = _build(small_data.write_data(tmp_path / "one", train=columns))
    root = small_data.write_data(tmp_path / "parts", train=columns)
    for name in _TABLES:
        folder = _in_parts(root / f"{name}.parquet", n_parts=4 if name == "train" else 2)
        (folder / "_SUCCESS").touch()
        (folder / ".part-00000.parquet.crc").touch()
    layout = find_data(root)
    assert layout.train == root / "train.parquet"
    assert "4 part files" in layout.description
    assert_equal(build_dataset(layout), expected)
    assert read_test_ids(layout).tolist() == [11, 10]


def test_an_empty_part_has_no_rows_and_no_effect(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path / "parts")
    folder = _in_parts(root / "train.parquet", n_parts=2)
    empty = pq.read_table(folder / "part-00000.parquet").slice(0, 0)
    pq.write_table(empty, folder / "part-00000a.parquet")
    assert_equal(_build(root), _build(small_data.write_data(tmp_path / "one")))


@pytest.mark.parametrize(
    ("column", "values", "part", "row", "problem"),
    [
        ("label", [1, 0, 0, 7], "part-00001", 1, "7 is not in 0..1"),
        ("user_id", [1, None, 2, 2], "part-00000", 1, "missing"),
        ("item_id", [4, 5, 66, 7], "part-00001", 0, "item 66 is not in item_feature.parquet"),
        ("item_seq", [[1, 2]] * 3 + [[0, 1, 2]], "part-00001", 1, "3 values but row 0 has 2"),
    ],
    ids=["range", "null", "unknown", "width"],
)
def test_errors_name_the_part_file_and_its_row(
    tmp_path: Path, column: str, values: list[Any], part: str, row: int, problem: str
) -> None:
    root = small_data.write_data(tmp_path, train={**small_data.train(), column: values})
    folder = _in_parts(root / "train.parquet", n_parts=2)
    error = _fault(root)
    assert (error.file, error.column, error.row) == (folder / f"{part}.parquet", column, row)
    assert problem in str(error)
    assert "through all of train.parquet" in str(error)


def test_errors_of_tables_that_are_read_whole_name_the_part_file(tmp_path: Path) -> None:
    ids = [1, 2, 3, 4, 5, 6, 7, 8, 3]
    items = {**small_data.item_feature(), "item_id": ids}
    root = small_data.write_data(tmp_path, item_feature=items)
    folder = _in_parts(root / "item_feature.parquet")
    error = _fault(root)
    assert (error.file, error.row) == (folder / "part-00002.parquet", 2)
    assert "this one is row 8" in str(error)


def test_part_files_must_have_the_same_types(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    folder = _in_parts(root / "train.parquet", n_parts=2)
    part = folder / "part-00001.parquet"
    table = pq.read_table(part)
    at = table.schema.get_field_index("user_id")
    pq.write_table(table.set_column(at, "user_id", table["user_id"].cast(pa.int32())), part)
    error = _fault(root)
    assert (error.file, error.column) == (part, "user_id")
    assert "the type is int32, but int64 in part-00000.parquet" in str(error)
    pq.write_table(table.drop_columns(["user_id"]), part)
    assert "the column is missing" in str(_fault(root))


@pytest.mark.parametrize("other", ["day=1/part-00000.parquet", "notes.txt", "part-00001.parquet/x"])
def test_a_folder_with_anything_else_in_it_is_refused(tmp_path: Path, other: str) -> None:
    root = small_data.write_data(tmp_path)
    path = _in_parts(root / "train.parquet", n_parts=1) / other
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(DataError, match="the folder also has") as error:
        find_data(root)
    assert Path(other).parts[0] in str(error.value)
    assert "sink_parquet" in error.value.fix


def test_a_folder_without_part_files_is_refused(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    (root / "train.parquet").unlink()
    (root / "train.parquet").mkdir()
    (root / "train.parquet" / "_SUCCESS").touch()
    with pytest.raises(DataError, match="the folder is empty"):
        find_data(root)


def test_the_fingerprint_covers_each_part_file(tmp_path: Path) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in paths:
        path.mkdir()
        for number in range(2):
            (path / f"{number}.parquet").write_text(f"{path.name} {number}")
    before = fingerprint_files(paths)
    assert fingerprint_files(paths) == before
    # The same parts in the same order, but one of them belongs to the other table.
    (paths[0] / "1.parquet").rename(paths[1] / "-1.parquet")
    assert fingerprint_files(paths) != before


def _as_csv(path: Path) -> Path:
    """Replace a parquet file by a CSV file in FuxiCTR's form."""
    table = pq.read_table(path)
    path.unlink()
    return write_csv(path.with_suffix(".csv"), table.to_pydict())


_AWKWARD = ['a "quoted" title', "comma, here", "line\nbreak", "", None, "七 🎬", "x", "y", "z"]


@pytest.mark.parametrize("block_bytes", [16 << 20, 400])
def test_csv_is_read_like_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    files = {
        "train": _many_rows(),
        "item_feature": {**small_data.item_feature(), "item_title": _AWKWARD},
    }
    expected = _build(small_data.write_data(tmp_path / "parquet", **files))
    root = small_data.write_data(tmp_path / "csv", **files)
    for name in _TABLES:
        _as_csv(root / f"{name}.parquet")
    monkeypatch.setattr(csv_file, "_BLOCK_BYTES", block_bytes)
    layout = find_data(root)
    assert layout.train == root / "train.csv"
    assert_equal(build_dataset(layout), expected)


def test_csv_without_padding_has_empty_histories(tmp_path: Path) -> None:
    rows = {**small_data.train(), "item_seq": [[1, 2], [], [3], []]}
    schema = {**rows, "item_seq": pa.array(rows["item_seq"], pa.list_(pa.int64()))}
    expected = _build(small_data.write_data(tmp_path / "parquet", train=schema))
    root = small_data.write_data(tmp_path / "csv")
    (root / "train.parquet").unlink()
    write_csv(root / "train.csv", rows)
    assert_equal(_build(root), expected)


def test_csv_beside_parquet_is_not_used_and_said(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    (root / "train.csv").write_text("nonsense")
    layout = find_data(root)
    assert layout.train == root / "train.parquet"
    assert "train.csv beside it is not used" in layout.description


@pytest.mark.parametrize(
    ("column", "values", "row", "problem"),
    [
        ("label", [1, "x", 0, 1], 1, "the value 'x' is not an integer"),
        ("label", [1, "1.0", 0, 1], 1, "the value '1.0' is not an integer"),
        ("likes_level", [4, 5, 2**70, 7], 2, f"the value '{2**70}' is not an integer"),
        ("user_id", [1, 1, 2, "u2"], 3, "the value 'u2' is not an integer"),
        ("user_id", [1, None, 2, 2], 1, "missing"),
        ("item_seq", [[1, 2], [1], ["y", 3], [1]], 2, "the value 'y' is not an integer"),
        ("item_seq", [[1, 2], [1, None, 2], [3], [1]], 1, "has a missing value in it"),
        ("item_seq", [[1, 2], [1], [3, 77], [1]], 2, "item 77 is not in item_feature.parquet"),
    ],
    ids=["text", "float", "overflow", "id", "empty", "list", "empty_in_list", "unknown"],
)
def test_wrong_values_in_csv_are_named(
    tmp_path: Path, column: str, values: list[Any], row: int, problem: str
) -> None:
    root = small_data.write_data(tmp_path)
    (root / "train.parquet").unlink()
    path = write_csv(root / "train.csv", {**small_data.train(), column: values})
    error = _fault(root)
    assert (error.file, error.column, error.row) == (path, column, row)
    assert problem in str(error)


_HEADER = "user_id,item_id,item_seq,likes_level,views_level,label\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "not a readable CSV file"),
        (_HEADER, "the file has no rows"),
        ("user_id;item_id\n1;2\n", "the column is missing; the file has user_id;item_id"),
        ("user_id,user_id,label\n1,1,1\n", "the column occurs 2 times"),
        (
            f"{_HEADER}1,4,1^2,1,1,1\n1,4,1^2,1,1\n",
            "row 1: the line has 5 values, but the header has 6",
        ),
        (
            f'{_HEADER}1,4,"1^2,1,1,1\n1,4,1^2,1,1,1\n',
            "the line has 3 values, but the header has 6",
        ),
        ((_HEADER + "1,4,1^2,1,1,1\n").encode("utf-16"), "train.csv"),
        (b"\x1f\x8b" + bytes(30), "not a readable CSV file"),
        (f'{_HEADER}1,4,"[1, 2]",1,1,1\n', "column item_seq: the first list is '[1, 2]'"),
    ],
    ids=[
        "empty",
        "header_only",
        "semicolons",
        "column_twice",
        "short_line",
        "open_quote",
        "utf16",
        "gzip",
        "python_lists",
    ],
)
def test_malformed_csv_is_refused(tmp_path: Path, content: str | bytes, problem: str) -> None:
    root = small_data.write_data(tmp_path)
    (root / "train.parquet").unlink()
    (root / "train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    error = _fault(root)
    assert error.file == root / "train.csv"
    assert problem in str(error)


def test_ids_in_csv_may_be_strings(tmp_path: Path) -> None:
    def renamed(columns: dict[str, Any]) -> dict[str, Any]:
        changed = dict(columns)
        changed["item_id"] = [f"v{item}" for item in columns["item_id"]]
        if "item_seq" in columns:
            lists = [[f"v{item}" if item else "" for item in each] for each in columns["item_seq"]]
            changed["item_seq"] = lists
        return changed

    files = {name: renamed(getattr(small_data, name)()) for name in _TABLES}
    expected = _build(small_data.write_data(tmp_path / "parquet", **files))
    (tmp_path / "csv").mkdir()
    for name, columns in files.items():
        write_csv(tmp_path / "csv" / f"{name}.csv", columns)
    dataset = _build(tmp_path / "csv")
    assert_equal(dataset, expected)
    assert dataset.items.ids.tolist() == [f"v{item}" for item in range(1, 10)]


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
    columns = _many_rows(n_rows)
    if not is_padded:
        lists = [[item for item in each if item] for each in columns["item_seq"]]
        columns["item_seq"] = pa.array(lists, pa.list_(pa.int64()))
    expected = _build(small_data.write_data(tmp_path / "list", train=columns))
    root = small_data.write_data(tmp_path / "repeated")
    path = without_list_group(root / "train.parquet", pa.table(columns), "item_seq", **options)
    assert "repeated int64 field_id=-1 item_seq" in str(pq.ParquetFile(path).schema)
    assert_equal(_build(root), expected)


def test_a_file_that_claims_more_rows_than_it_has_is_refused(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)

    def claim(footer: Struct) -> None:
        footer[N_ROWS] = (I64, 2**20)

    edit_footer(root / "train.parquet", claim)
    error = _fault(root)
    assert error.file == root / "train.parquet"
    assert "claims 1,048,576 rows but has 4" in str(error)


def _damage(path: Path, column: str, row_group: int = 0) -> None:
    """Change a few bytes within the pages of a column."""
    chunk = pq.read_metadata(path).row_group(row_group)
    found = [chunk.column(i) for i in range(chunk.num_columns)]
    at = next(each for each in found if each.path_in_schema.split(".")[0] == column)
    content = bytearray(path.read_bytes())
    middle = at.data_page_offset + at.total_compressed_size // 2
    for position in range(middle, middle + 4):
        content[position] ^= 0xFF
    path.write_bytes(content)


_CHECKED = {"write_page_checksum": True, "row_group_size": 200, "use_dictionary": False}


@pytest.mark.parametrize("column", ["user_id", "item_id", "item_seq", "likes_level", "label"])
def test_a_damaged_page_is_named_by_file_column_and_rows(tmp_path: Path, column: str) -> None:
    root = small_data.write_data(tmp_path)
    pq.write_table(pa.table(_many_rows()), root / "train.parquet", **_CHECKED)
    _damage(root / "train.parquet", column, row_group=1)
    error = _fault(root)
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
        pq.write_table(pa.table(_many_rows()), path, **_CHECKED)
    _damage(path, "item_seq", row_group=2)
    error = _fault(root)
    assert (error.file, error.column) == (path, "item_seq")
    assert "rows 400 to 599" in str(error)


def test_a_damaged_item_table_is_named(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    path = root / "item_feature.parquet"
    pq.write_table(pa.table(small_data.item_feature()), path, **_CHECKED)
    _damage(path, "item_title")
    error = _fault(root)
    assert (error.file, error.column) == (path, "item_title")


def test_a_file_cut_in_the_middle_is_refused(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path, train=_many_rows())
    path = root / "train.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    error = _fault(root)
    assert error.file == path
    assert "not a readable parquet file" in str(error)


def test_a_hole_in_the_middle_is_named(tmp_path: Path) -> None:
    # As left by an interrupted download that had reserved the space: no checksums, zeros inside.
    root = small_data.write_data(tmp_path, train=_many_rows(5_000))
    path = root / "train.parquet"
    content = bytearray(path.read_bytes())
    content[1_000:6_000] = bytes(5_000)
    path.write_bytes(content)
    error = _fault(root)
    assert error.file == path
    assert error.column is not None
    assert "rows 0 to 4,999 (row group 0) cannot be read" in str(error)


def test_an_unsupported_codec_is_named(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)

    def compress_with_lzo(footer: Struct) -> None:
        for chunk in chunks(footer, "views_level"):
            chunk[4] = (I32, 3)

    edit_footer(root / "train.parquet", compress_with_lzo)
    error = _fault(root)
    assert (error.file, error.column) == (root / "train.parquet", "views_level")
    assert "common codec" in error.fix


@pytest.mark.parametrize("make", ["damaged", "lzo", "nested", "twice", "dotted"])
def test_a_column_that_is_not_needed_does_not_matter(tmp_path: Path, make: str) -> None:
    columns: dict[str, Any] = {**small_data.train(), "other": [1, 2, 3, 4]}
    if make == "nested":
        columns["other"] = [{"item_seq": [[1]], "label": {"x": 1.5}}] * 4
    if make == "dotted":
        columns["item_seq.list.element"] = columns.pop("other")
    table = pa.table(columns)
    if make == "twice":
        table = table.append_column("other", table["label"])
    root = small_data.write_data(tmp_path / "data")
    path = root / "train.parquet"
    pq.write_table(table, path, write_page_checksum=True, use_dictionary=False)
    if make == "damaged":
        _damage(path, "other")
        with pytest.raises(OSError, match="CRC"):
            pq.ParquetFile(path, page_checksum_verification=True).read()
    if make == "lzo":

        def compress_with_lzo(footer: Struct) -> None:
            for chunk in chunks(footer, "other"):
                chunk[4] = (I32, 3)

        edit_footer(path, compress_with_lzo)
    assert_equal(_build(root), _build(small_data.write_data(tmp_path / "plain")))


_READ = """
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
    ids=["not_needed", "label", "history", "whole_footer"],
)
def test_encrypted_columns(
    tmp_path: Path, column: str, is_footer_plain: bool, expected: str
) -> None:
    path = tmp_path / "train.parquet"
    table = pa.table({**small_data.train(), "other": [1, 2, 3, 4]})
    _write_encrypted(path, table, column, is_footer_plain)
    # In a process of its own, as pyarrow can end the process.
    command = [sys.executable, "-c", _READ, str(path)]
    reading = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert reading.returncode == 0, reading.stderr
    assert expected in reading.stdout


def test_reading_verifies_checksums_only_of_files_that_have_them(tmp_path: Path) -> None:
    table = pa.table(small_data.train())
    for has_checksums in (True, False):
        path = tmp_path / f"{has_checksums}.parquet"
        pq.write_table(table, path, write_page_checksum=has_checksums)
        with open_table(path, LABELLED_COLUMNS) as file:
            assert file.read(["label"]).column("label").to_pylist() == [1, 0, 0, 1]
            assert (file.n_rows, file.schema.names) == (4, table.schema.names)


def test_files_are_closed(tmp_path: Path) -> None:
    path = _in_parts(small_data.write(tmp_path / "train.parquet", small_data.train()))
    with open_table(path, LABELLED_COLUMNS) as file:
        parts = file._parts
    for part in parts:
        with pytest.raises(DataError, match="closed"):
            list(part.iter_batches(10, ["label"]))


def test_assert_equal_can_fail(tmp_path: Path) -> None:
    dataset = _build(small_data.write_data(tmp_path))
    train = dataclasses.replace(dataset.train, item_id=dataset.train.item_id[::-1])
    with pytest.raises(AssertionError):
        assert_equal(dataset, dataclasses.replace(dataset, train=train))
