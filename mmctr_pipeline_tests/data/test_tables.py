"""Part files are read as one table; errors name the part file."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.build import build_dataset, read_test_ids
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.fingerprint import fingerprint_files
from mmctr_pipeline.data.schemas import LABELLED_COLUMNS
from mmctr_pipeline.data.tables import open_table
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline_tests.data import small_data
from mmctr_pipeline_tests.data.read_folders import (
    assert_equal,
    expect_data_error,
    many_rows,
    read_folder,
    split_into_parts,
)

_TABLES = ("train", "valid", "test", "item_feature")


def test_part_files_are_read_as_one_table(tmp_path: Path) -> None:
    columns = many_rows()
    expected = read_folder(small_data.write_data(tmp_path / "one", train=columns))
    root = small_data.write_data(tmp_path / "parts", train=columns)
    for name in _TABLES:
        folder = split_into_parts(root / f"{name}.parquet", n_parts=4 if name == "train" else 2)
        (folder / "_SUCCESS").touch()
        (folder / ".part-00000.parquet.crc").touch()
    layout = find_data(root)
    assert layout.train == root / "train.parquet"
    assert "4 part files" in layout.description
    assert_equal(build_dataset(layout), expected)
    assert read_test_ids(layout).tolist() == [11, 10]


def test_an_empty_part_has_no_rows_and_no_effect(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path / "parts")
    folder = split_into_parts(root / "train.parquet", n_parts=2)
    empty = pq.read_table(folder / "part-00000.parquet").slice(0, 0)
    pq.write_table(empty, folder / "part-00000a.parquet")
    assert_equal(read_folder(root), read_folder(small_data.write_data(tmp_path / "one")))


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
    folder = split_into_parts(root / "train.parquet", n_parts=2)
    error = expect_data_error(root)
    assert (error.file, error.column, error.row) == (folder / f"{part}.parquet", column, row)
    assert problem in str(error)
    assert "through all of train.parquet" in str(error)


def test_errors_in_the_item_table_name_the_part_file(tmp_path: Path) -> None:
    ids = [1, 2, 3, 4, 5, 6, 7, 8, 3]
    items = {**small_data.item_feature(), "item_id": ids}
    root = small_data.write_data(tmp_path, item_feature=items)
    folder = split_into_parts(root / "item_feature.parquet")
    error = expect_data_error(root)
    assert (error.file, error.row) == (folder / "part-00002.parquet", 2)
    assert "this row is row 8 if counted" in str(error)


def test_part_files_must_have_the_same_types(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    folder = split_into_parts(root / "train.parquet", n_parts=2)
    part = folder / "part-00001.parquet"
    table = pq.read_table(part)
    position = table.schema.get_field_index("user_id")
    narrow = table["user_id"].cast(pa.int32())
    pq.write_table(table.set_column(position, "user_id", narrow), part)
    error = expect_data_error(root)
    assert (error.file, error.column) == (part, "user_id")
    assert "the type is int32, but it is int64 in part-00000.parquet" in str(error)
    pq.write_table(table.drop_columns(["user_id"]), part)
    assert "the column is missing" in str(expect_data_error(root))


@pytest.mark.parametrize("extra", ["day=1/part-00000.parquet", "notes.txt", "part-00001.parquet/x"])
def test_a_folder_with_anything_besides_part_files_is_refused(tmp_path: Path, extra: str) -> None:
    root = small_data.write_data(tmp_path)
    path = split_into_parts(root / "train.parquet", n_parts=1) / extra
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(DataError, match="the folder also has") as error:
        find_data(root)
    assert Path(extra).parts[0] in str(error.value)
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
    # The sequence of parts stays the same, but one of them moves to the other table.
    (paths[0] / "1.parquet").rename(paths[1] / "-1.parquet")
    assert fingerprint_files(paths) != before


def test_part_files_are_closed_with_their_table(tmp_path: Path) -> None:
    path = split_into_parts(small_data.write(tmp_path / "train.parquet", small_data.train()))
    with open_table(path, LABELLED_COLUMNS) as file:
        parts = file._parts
    for part in parts:
        with pytest.raises(DataError, match="closed"):
            list(part.iter_batches(10, ["label"]))


def test_assert_equal_can_fail(tmp_path: Path) -> None:
    dataset = read_folder(small_data.write_data(tmp_path))
    train = dataclasses.replace(dataset.train, item_id=dataset.train.item_id[::-1])
    with pytest.raises(AssertionError):
        assert_equal(dataset, dataclasses.replace(dataset, train=train))
