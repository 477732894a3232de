"""Invalid values are refused with file, column, row and a fix."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmctr_pipeline.data.build import build_dataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.schemas import LABELLED_COLUMNS
from mmctr_pipeline.data.tables import open_table
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline_tests.data import small_data


def _fault(root: Path, **changed: dict[str, Any]) -> DataError:
    """Return the error that a data set with the columns `changed` raises."""
    small_data.write_data(root, **changed)
    with pytest.raises(DataError) as error:
        build_dataset(find_data(root))
    assert error.value.fix
    assert f"Fix: {error.value.fix}" in str(error.value)
    assert str(error.value.file) in str(error.value)
    return error.value


def _train(**changed: Any) -> dict[str, Any]:
    return {**small_data.train(), **changed}


@pytest.mark.parametrize(
    ("column", "values", "row", "problem"),
    [
        ("label", [1, 0, 2, 1], 2, "2 is not in 0..1"),
        ("label", [1, 0, None, 1], 2, "missing"),
        ("user_id", [1, 0, 2, 2], 1, "0 is not in 1.."),
        ("user_id", pa.array([1, 2**63, 2, 2], pa.uint64()), 1, "9223372036854775808 is not in"),
        ("item_id", [4, 5, 6, -7], 3, "-7 is not in 1.."),
        ("item_id", [4, 5, 6, 77], 3, "item 77 is not in item_feature.parquet"),
        ("likes_level", [11, 5, 6, 7], 0, "11 is not in 0..10"),
        ("views_level", [0, -1, 6, 7], 1, "-1 is not in 0..10"),
        ("item_seq", [[0, 1, 2], [0, 1, 2], None, [0, 0, 0]], 2, "missing"),
        ("item_seq", [[0, 1, 2], [0, None, 2], [3, 2, 1], [0, 0, 0]], 1, "missing value in it"),
        ("item_seq", [[0, 1, 2], [0, 1, 2], [0, -3, 1], [0, 0, 0]], 2, "-3 is not in 0.."),
        ("item_seq", [[0, 1, 2], [0, 1, 2], [0, 30, 1], [0, 0, 0]], 2, "item 30 is not in"),
        ("item_seq", [[0, 1, 2], [0, 1, 2], [2, 1, 0], [0, 0, 0]], 2, "padded on the right"),
        ("item_seq", [[0, 1, 2], [0, 1, 2], [3, 0, 1], [0, 0, 0]], 2, "has gaps"),
        (
            "item_seq",
            [[0, 1, 2], [0, 1, 2], [0, 3, 2, 1], [0, 0, 0]],
            2,
            "4 values but row 0 has 3",
        ),
        ("item_seq", [[1, 2], [1], [3, 2, 1], [0, 0, 0]], 1, "row 3 is padded with 0"),
    ],
)
def test_errors_name_file_column_and_row(
    tmp_path: Path, column: str, values: list[Any], row: int, problem: str
) -> None:
    error = _fault(tmp_path, train=_train(**{column: values}))
    assert (error.file, error.column, error.row) == (tmp_path / "train.parquet", column, row)
    assert f"column {column}, row {row}: " in str(error)
    assert problem in str(error)


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_every_split_is_checked(tmp_path: Path, name: str) -> None:
    columns = {**getattr(small_data, name)(), "likes_level": None}
    columns["likes_level"] = [1] * (len(columns["user_id"]) - 1) + [12]
    error = _fault(tmp_path, **{name: columns})
    assert error.file.name == f"{name}.parquet"
    assert error.row == len(columns["user_id"]) - 1


def _many_rows(histories: list[list[int]]) -> dict[str, Any]:
    n_rows = len(histories)
    ones = np.ones(n_rows, np.int32)
    columns = dict.fromkeys(small_data.train(), ones)
    return {**columns, "item_seq": pa.array(histories), "label": np.zeros(n_rows, np.int32)}


def test_rows_are_numbered_over_the_whole_file(tmp_path: Path) -> None:
    # The file is read in several batches, and the invalid row is in a later one.
    columns = _many_rows([[0, 1]] * 150_000)
    columns["label"][140_123] = 3
    assert _fault(tmp_path, train=columns).row == 140_123


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ([0, 3, -3], "-3 is not in 0..9223372036854775807 (6 such values in rows 0 to 9)"),
        ([0, 3, 30], "item 30 is not in item_feature.parquet (6 such values in rows 0 to 9)"),
    ],
)
def test_each_row_of_a_run_of_equal_histories_is_counted(
    tmp_path: Path, history: list[int], problem: str
) -> None:
    correct = [[0, 0, 1]] * 3
    error = _fault(
        tmp_path, train=_many_rows(correct + [history] * 4 + [[0, 0, 2]] + [history] * 2)
    )
    assert error.row == 3
    assert problem in str(error)


def test_widths_are_compared_over_the_whole_file(tmp_path: Path) -> None:
    error = _fault(tmp_path, train=_many_rows([[0, 1]] * 140_000 + [[1, 2, 3]] * 10))
    assert (error.column, error.row) == ("item_seq", 140_000)
    assert "3 values but row 0 has 2" in str(error)


@pytest.mark.parametrize("name", ["train", "valid", "test", "item_feature"])
def test_a_missing_column_is_reported_with_the_existing_ones(tmp_path: Path, name: str) -> None:
    columns = getattr(small_data, name)()
    for column in list(columns):
        rest = {key: values for key, values in columns.items() if key != column}
        error = _fault(tmp_path / column, **{name: rest})
        assert (error.file.name, error.column) == (f"{name}.parquet", column)
        assert ", ".join(rest) in str(error)


@pytest.mark.parametrize(
    ("column", "values", "actual_type"),
    [
        ("label", [1.0, 0.0, 0.0, 1.0], "double"),
        ("user_id", [1.0, 1.0, 2.0, 2.0], "double"),
        ("item_id", [[4], [5], [6], [7]], "list"),
        ("item_seq", [1, 2, 3, 4], "int64"),
        ("item_seq", [[1.0], [2.0], [3.0], [4.0]], "list<element: double>"),
        ("item_seq", ["1 2", "1", "2", "3"], "string"),
        ("label", [True, False, True, False], "bool"),
    ],
)
def test_wrong_types_are_refused(
    tmp_path: Path, column: str, values: list[Any], actual_type: str
) -> None:
    error = _fault(tmp_path, train=_train(**{column: values}))
    assert error.column == column
    assert f"the type is {actual_type}" in str(error)
    assert "cast the column" in error.fix


def test_floats_caused_by_missing_values_are_explained(tmp_path: Path) -> None:
    error = _fault(tmp_path, train=_train(label=[1.0, None, 0.0, 1.0]))
    assert "values are missing" in error.fix


@pytest.mark.parametrize("integer", ["int8", "uint8", "int16", "int32", "uint32", "uint64"])
@pytest.mark.parametrize("make_list", [pa.list_, pa.large_list, lambda t: pa.list_(t, 3)])
def test_integers_of_any_width_and_lists_of_any_kind_are_accepted(
    tmp_path: Path, integer: str, make_list: Callable[[pa.DataType], pa.DataType]
) -> None:
    integer_type = pa.type_for_alias(integer)
    columns = {
        name: pa.array(values, make_list(integer_type) if name == "item_seq" else integer_type)
        for name, values in small_data.train().items()
    }
    small_data.write_data(tmp_path, train=columns)
    dataset = build_dataset(find_data(tmp_path))
    assert dataset.train.user_id.tolist() == [1, 1, 2, 2]
    assert dataset.histories[dataset.train.history[2]].tolist() == [3, 2, 1]


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    error = _fault(tmp_path / "test", test={**small_data.test(), "ID": [7, 7]})
    assert (error.file.name, error.column, error.row) == ("test.parquet", "ID", 1)
    assert "the value 7 already occurs in row 0" in str(error)
    ids = [1, 2, 3, 4, 5, 6, 7, 8, 3]
    error = _fault(tmp_path / "items", item_feature={**small_data.item_feature(), "item_id": ids})
    assert (error.file.name, error.column, error.row) == ("item_feature.parquet", "item_id", 8)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    empty = {name: pa.array([], pa.array(v).type) for name, v in small_data.valid().items()}
    error = _fault(tmp_path, valid=empty)
    assert error.file.name == "valid.parquet"
    assert "no rows" in str(error)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("user_id,item_id\n", "not a readable parquet file"),
        ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself"),
        ("<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "train.parquet"
    path.write_text(content)
    with pytest.raises(DataError, match=problem):
        open_table(path, LABELLED_COLUMNS)


@pytest.mark.parametrize(
    ("histories", "advice", "empty"),
    [
        ([[0, 1, 2], None, [3, 2, 1], [0, 0, 0]], "as 3 zeros, as the other", [0, 0, 0]),
        ([[1, 2], None, [3, 2, 1], []], "as an empty list", []),
        ([[1, 2, 4], None, [3, 2, 1], [1, 2, 3]], "as an empty list, or as 3 zeros", []),
    ],
    ids=["padded", "ragged", "of_one_width"],
)
def test_following_the_advice_for_a_missing_history_makes_the_data_valid(
    tmp_path: Path, histories: list[Any], advice: str, empty: list[int]
) -> None:
    error = _fault(tmp_path / "null", train=_train(item_seq=histories))
    assert (error.column, error.row) == ("item_seq", 1)
    assert advice in error.fix
    filled = pa.array([empty if history is None else history for history in histories])
    root = small_data.write_data(tmp_path / "filled", train=_train(item_seq=filled))
    dataset = build_dataset(find_data(root))
    assert dataset.histories[dataset.train.history[1]].tolist() == []
