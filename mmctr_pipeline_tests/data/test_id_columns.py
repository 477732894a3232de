"""Data sets with sparse or string ids are read; faults are located by file, column and row."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmctr_pipeline.data.build import build_dataset, read_train_histories
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.items import read_given_vectors, read_items
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.config import ImprovedMmctrConfig
from mmctr_pipeline.training.batch_source import feature_spec, item_features
from mmctr_pipeline_tests.data import small_data

Columns = dict[str, Any]

NAMES = ("item_feature", "train", "valid", "test")


def _strings(columns: Columns) -> Columns:
    """Return the columns with string ids instead of integers, `v4` for 4 and "" for 0."""

    def text(number: int) -> str:
        return f"v{number}" if number else ""

    changed = dict(columns)
    for name in {"user_id", "item_id"} & changed.keys():
        changed[name] = list(map(text, changed[name]))
    if "item_seq" in changed:
        changed["item_seq"] = [list(map(text, row)) for row in changed["item_seq"]]
    return changed


def _integer_files() -> dict[str, Columns]:
    return {name: getattr(small_data, name)() for name in NAMES}


def _string_files(**changed: Columns) -> dict[str, Columns]:
    files = {name: _strings(columns) for name, columns in _integer_files().items()}
    return {name: {**columns, **changed.get(name, {})} for name, columns in files.items()}


def _build(root: Path, files: dict[str, Columns]) -> CtrDataset:
    return build_dataset(find_data(small_data.write_data(root, **files)))


def _fault(root: Path, files: dict[str, Columns]) -> DataError:
    with pytest.raises(DataError) as error:
        _build(root, files)
    return error.value


def test_string_ids_give_the_same_rows_as_integers(tmp_path: Path) -> None:
    dense = _build(tmp_path / "dense", {})
    dataset = _build(tmp_path / "strings", _string_files())
    assert dataset.items.ids.tolist() == [f"v{number}" for number in range(1, 10)]
    assert dataset.users is not None
    assert dataset.users.ids.tolist() == ["v1", "v2", "v3"]
    assert dataset.items.item_id.tolist() == dense.items.item_id.tolist()
    for name, split in dataset.splits.items():
        for column, values in split.columns.items():
            assert values.tolist() == dense.splits[name].columns[column].tolist()
            assert values.dtype == dense.splits[name].columns[column].dtype
    assert dataset.histories.values.tolist() == dense.histories.values.tolist()
    types = {"schema": dataset.provenance["schema"]}
    assert dataset.provenance == dense.provenance | types


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)
def test_any_string_type_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    files = _string_files()
    list_kind = pa.large_list(pa.string() if pa.types.is_dictionary(kind) else kind)
    for columns in files.values():
        for name in {"user_id", "item_id"} & columns.keys():
            columns[name] = pa.array(columns[name], pa.string()).cast(kind)
        if "item_seq" in columns:
            columns["item_seq"] = pa.array(columns["item_seq"], list_kind)
    dataset = _build(tmp_path, files)
    assert dataset.train.item_id.tolist() == [4, 5, 6, 7]
    assert dataset.train.user_id.tolist() == [1, 1, 2, 2]
    assert [history.tolist() for history in dataset.histories] == [[1, 2], [3, 2, 1], [], [2]]


def test_id_maps_survive_writing_and_reading(tmp_path: Path) -> None:
    dataset = _build(tmp_path / "data", _string_files())
    (tmp_path / "out").mkdir()
    dataset.write(tmp_path / "out")
    again = CtrDataset.read(tmp_path / "out")
    assert again.items.ids.tolist() == dataset.items.ids.tolist()
    assert again.id_maps.keys() == dataset.id_maps.keys() == {"item_id", "user_id"}
    assert again.id_maps["user_id"].ids.tolist() == ["v1", "v2", "v3"]


def test_gaps_between_ids_take_no_memory(tmp_path: Path) -> None:
    large_ids = {1: 5_000_000, 4: 2_000_000_000, 9: 2**62, 8: 2**63 - 1}

    def with_gaps(ids: list[int]) -> list[int]:
        return [large_ids.get(item, item) for item in ids]

    files = _integer_files()
    for columns in files.values():
        columns["item_id"] = with_gaps(columns["item_id"])
        if "item_seq" in columns:
            columns["item_seq"] = list(map(with_gaps, columns["item_seq"]))
            columns["user_id"] = [2**62 + user for user in columns["user_id"]]
    files["item_feature"]["emb"] = [[float(item)] for item in range(1, 10)]
    dataset = _build(tmp_path, files)
    layout = find_data(tmp_path)
    ids = sorted(files["item_feature"]["item_id"])
    assert dataset.items.ids.tolist() == ids
    assert [ids[row - 1] for row in dataset.train.item_id] == files["train"]["item_id"]
    assert dataset.train.user_id.tolist() == [1, 1, 2, 2]
    vectors = read_given_vectors(layout, "emb")
    assert vectors.item_id.tolist() == ids
    model, tables = ImprovedMmctrConfig(), ItemVectors(vectors)
    assert item_features(dataset.items, tables, model).vectors_ID.shape == (10, 1)
    spec = feature_spec(dataset, tables, model)
    assert (spec.n_users, spec.n_items) == (4, 10)
    assert read_train_histories(layout, read_items(layout)).values.max() <= 9


@pytest.mark.parametrize(
    ("name", "changed", "column", "row", "problem"),
    [
        ("item_feature", {2: None}, "item_id", 2, "the value is missing"),
        ("item_feature", {2: ""}, "item_id", 2, "the id is an empty string"),
        ("item_feature", {2: "v" * 257}, "item_id", 2, "257 bytes, more than 256"),
        ("item_feature", {2: "v3\0"}, "item_id", 2, "the id has a NUL"),
        ("item_feature", {2: "v2"}, "item_id", 2, "the value v2 already occurs in row 1"),
        ("train", {3: "v77"}, "item_id", 3, "item 'v77' is not in item_feature.parquet"),
        ("train", {3: "v7 "}, "item_id", 3, "item 'v7 ' is not in item_feature.parquet"),
        ("train", {3: ""}, "item_id", 3, "the id is an empty string"),
        ("valid", {1: None}, "user_id", 1, "the value is missing"),
        ("valid", {1: ""}, "user_id", 1, "the id is an empty string"),
        ("test", {0: "a\0b"}, "user_id", 0, "the id has a NUL"),
        ("train", {2: ["v3", "v77", "v1"]}, "item_seq", 2, "item 'v77' is not in item_feature"),
        ("train", {2: ["0", "v2", "v1"]}, "item_seq", 2, "for padding, write an empty string"),
        ("train", {2: ["v3", None, "v1"]}, "item_seq", 2, "has a missing value in it"),
        ("train", {2: ["v3", "", "v1"]}, "item_seq", 2, "['v3', '', 'v1'] has gaps"),
        ("train", {2: ["v3", "v1", ""]}, "item_seq", 2, "an empty string follows an item id"),
        ("train", {2: ["v3", "v1"]}, "item_seq", 2, "row 0 is padded with empty strings"),
        ("train", {2: None}, "item_seq", 2, "the value is missing"),
    ],
)
def test_faults_of_string_ids_are_located(
    tmp_path: Path, name: str, changed: dict[int, Any], column: str, row: int, problem: str
) -> None:
    files = _string_files()
    values = list(files[name][column])
    for position, value in changed.items():
        values[position] = value
    files[name][column] = values
    error = _fault(tmp_path, files)
    assert (error.file.name, error.column, error.row) == (f"{name}.parquet", column, row)
    assert problem in str(error)


@pytest.mark.parametrize("column", ["item_id", "item_seq"])
def test_an_unknown_id_is_not_taken_for_a_known_one_with_the_same_low_bits(
    tmp_path: Path, column: str
) -> None:
    files = _integer_files()
    item = 2**32 + 5
    files["train"][column][1] = item if column == "item_id" else [0, item, 2]
    error = _fault(tmp_path, files)
    assert (error.file.name, error.column, error.row) == ("train.parquet", column, 1)
    assert f"item {item} is not in item_feature.parquet" in str(error)


def test_ids_that_are_not_utf8_are_located(tmp_path: Path) -> None:
    files = _string_files()
    raw = [b"v1", b"v2", b"v\xff", *[b"v%d" % number for number in range(4, 10)]]
    files["item_feature"]["item_id"] = pa.array(raw, pa.binary()).view(pa.string())
    error = _fault(tmp_path, files)
    assert (error.file.name, error.column, error.row) == ("item_feature.parquet", "item_id", 2)
    assert "is not UTF-8" in str(error)


@pytest.mark.parametrize(
    ("name", "column", "reference"),
    [
        ("train", "item_id", "item_feature"),
        ("valid", "item_seq", "item_feature"),
        ("test", "item_id", "item_feature"),
        ("valid", "user_id", "train"),
        ("test", "user_id", "train"),
    ],
)
@pytest.mark.parametrize("kind", ["strings", "integers"])
def test_an_error_about_mixed_string_and_integer_ids_names_both_files(
    tmp_path: Path, name: str, column: str, reference: str, kind: str
) -> None:
    integers, strings = _integer_files(), _string_files()
    files, source = (integers, strings) if kind == "strings" else (strings, integers)
    files[name][column] = source[name][column]
    error = _fault(tmp_path, files)
    assert (error.file.name, error.column) == (f"{name}.parquet", column)
    assert f"the ids are {kind}" in str(error)
    assert f"{reference}.parquet" in str(error)


def test_given_vectors_with_string_ids_are_refused_if_items_have_integers(tmp_path: Path) -> None:
    item_info = {"item_id": ["", "v1"], "emb": [[0.0], [1.0]]}
    layout = find_data(small_data.write_data(tmp_path, item_info=item_info))
    problem = r"the ids are strings, .*item_feature\.parquet are integers"
    with pytest.raises(DataError, match=problem):
        read_given_vectors(layout, "emb")


def test_the_padding_row_is_dropped_from_given_vectors_with_string_ids(tmp_path: Path) -> None:
    item_info = {"item_id": ["v2", "", "v1"], "emb": [[2.0], [0.0], [1.0]]}
    layout = find_data(small_data.write_data(tmp_path, item_info=item_info, **_string_files()))
    table = read_given_vectors(layout, "emb")
    assert table.item_id.tolist() == ["v1", "v2"]
    assert table.vectors.tolist() == [[1], [2]]


@pytest.mark.parametrize("name", ["train", "valid"])
@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_class_are_refused_when_reading(
    tmp_path: Path, name: str, label: int
) -> None:
    columns = getattr(small_data, name)()
    columns["label"] = [label] * len(columns["label"])
    error = _fault(tmp_path, {name: columns})
    assert (error.file.name, error.column) == (f"{name}.parquet", "label")
    assert f"labels are {label}" in str(error)


def test_a_tag_that_would_need_a_huge_table_is_refused(tmp_path: Path) -> None:
    tags = [[1]] * 8 + [[0, 1_000_001]]
    error = _fault(tmp_path, {"item_feature": {**small_data.item_feature(), "item_tags": tags}})
    assert (error.column, error.row) == ("item_tags", 8)
    assert "1000001 is not in 0..1000000" in str(error)
    assert "renumber" in error.fix


def test_users_of_all_splits_share_one_map(tmp_path: Path) -> None:
    users = {"train": [10**12, 7, 7, 10**12], "valid": [7, 5 * 10**9], "test": [2**61, 10**12]}
    files = {
        name: {**getattr(small_data, name)(), "user_id": np.array(ids)}
        for name, ids in users.items()
    }
    dataset = _build(tmp_path, files)
    assert dataset.users is not None
    ids = dataset.users.ids
    assert ids.tolist() == [7, 5 * 10**9, 10**12, 2**61]
    for name, expected in users.items():
        assert ids[dataset.splits[name].user_id - 1].tolist() == expected
    assert dataset.provenance["valid"]["share_users_in_train"] == 0.5
