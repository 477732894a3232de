"""CSV files in FuxiCTR's form are read like parquet; errors name the column and the row."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data import csv_file
from mmctr_pipeline.data.build import build_dataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline_tests.data import small_data
from mmctr_pipeline_tests.data.csv_tables import write_csv
from mmctr_pipeline_tests.data.read_folders import (
    assert_equal,
    expect_data_error,
    many_rows,
    read_folder,
)

_TABLES = ("train", "valid", "test", "item_feature")


def _convert_to_csv(path: Path) -> Path:
    """Replace a parquet file by a CSV file in FuxiCTR's form."""
    table = pq.read_table(path)
    path.unlink()
    return write_csv(path.with_suffix(".csv"), table.to_pydict())


_AWKWARD_TITLES = [
    'a "quoted" title',
    "comma, here",
    "line\nbreak",
    "",
    None,
    "七 🎬",
    "x",
    "y",
    "z",
]


@pytest.mark.parametrize("block_bytes", [16 << 20, 400])
def test_csv_is_read_like_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    files = {
        "train": many_rows(),
        "item_feature": {**small_data.item_feature(), "item_title": _AWKWARD_TITLES},
    }
    expected = read_folder(small_data.write_data(tmp_path / "parquet", **files))
    root = small_data.write_data(tmp_path / "csv", **files)
    for name in _TABLES:
        _convert_to_csv(root / f"{name}.parquet")
    monkeypatch.setattr(csv_file, "_BLOCK_BYTES", block_bytes)
    layout = find_data(root)
    assert layout.train == root / "train.csv"
    assert_equal(build_dataset(layout), expected)


def test_csv_without_padding_has_empty_histories(tmp_path: Path) -> None:
    columns = {**small_data.train(), "item_seq": [[1, 2], [], [3], []]}
    typed = {**columns, "item_seq": pa.array(columns["item_seq"], pa.list_(pa.int64()))}
    expected = read_folder(small_data.write_data(tmp_path / "parquet", train=typed))
    root = small_data.write_data(tmp_path / "csv")
    (root / "train.parquet").unlink()
    write_csv(root / "train.csv", columns)
    assert_equal(read_folder(root), expected)


def test_csv_beside_parquet_is_ignored_and_the_description_says_so(tmp_path: Path) -> None:
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
    ids=[
        "text",
        "float",
        "overflow",
        "mixed_ids",
        "empty",
        "text_in_list",
        "empty_in_list",
        "unknown_item",
    ],
)
def test_wrong_values_in_csv_are_named(
    tmp_path: Path, column: str, values: list[Any], row: int, problem: str
) -> None:
    root = small_data.write_data(tmp_path)
    (root / "train.parquet").unlink()
    path = write_csv(root / "train.csv", {**small_data.train(), column: values})
    error = expect_data_error(root)
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
        ((_HEADER + "1,4,1^2,1,1,1\n").encode("utf-16"), "compressed, or not in a text"),
        (gzip.compress(_HEADER.encode() * 9), "compressed, or not in a text format"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself"),
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
        "git_lfs",
        "python_lists",
    ],
)
def test_malformed_csv_is_refused(tmp_path: Path, content: str | bytes, problem: str) -> None:
    root = small_data.write_data(tmp_path)
    (root / "train.parquet").unlink()
    (root / "train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    error = expect_data_error(root)
    assert error.file == root / "train.csv"
    assert problem in str(error)


def test_ids_in_csv_may_be_strings(tmp_path: Path) -> None:
    def with_string_ids(columns: dict[str, Any]) -> dict[str, Any]:
        changed = dict(columns)
        changed["item_id"] = [f"v{item}" for item in columns["item_id"]]
        if "item_seq" in columns:
            changed["item_seq"] = [
                [f"v{item}" if item else "" for item in history] for history in columns["item_seq"]
            ]
        return changed

    files = {name: with_string_ids(getattr(small_data, name)()) for name in _TABLES}
    expected = read_folder(small_data.write_data(tmp_path / "parquet", **files))
    (tmp_path / "csv").mkdir()
    for name, columns in files.items():
        write_csv(tmp_path / "csv" / f"{name}.csv", columns)
    dataset = read_folder(tmp_path / "csv")
    assert_equal(dataset, expected)
    assert dataset.items.ids.tolist() == [f"v{item}" for item in range(1, 10)]
