"""On drawn data sets, the reader agrees with a plain reader.

Both read the same values, or the reader names one of the faults that the plain reader lists.
"""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from mmctr_pipeline.data.build import build_dataset
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline_tests.data.csv_tables import write_csv
from mmctr_pipeline_tests.data.drawn_data import Columns, files_with_faults, valid_files
from mmctr_pipeline_tests.data.parquet_footers import write_without_list_group
from mmctr_pipeline_tests.data.plain_reader import Place, PlainDataset, read_plainly

_QUICK = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
_LONG = settings(_QUICK, max_examples=250)


def _write(root: Path, files: dict[str, pa.Table], row_group: int) -> None:
    for name, table in files.items():
        pq.write_table(table, root / f"{name}.parquet", row_group_size=row_group)


def _split(path: Path, ends: list[int]) -> dict[str, int]:
    """Replace a file by part files that end at the rows `ends`; return the first row of each."""
    table = pq.read_table(path)
    path.unlink()
    path.mkdir()
    starts = [0, *(min(end, len(table)) for end in sorted(ends))]
    names = {}
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else len(table)
        name = f"part-{number}.parquet"
        pq.write_table(table.slice(start, end - start), path / name)
        names[name] = start
    return names


def _place(error: DataError, starts: dict[str, int]) -> Place:
    """Return the place of an error in the whole table, given the first row of each part."""
    if error.file.parent.suffix != ".parquet":
        return error.file.name, error.column, error.row
    row = None if error.row is None else error.row + starts[error.file.name]
    return error.file.parent.name, error.column, row


def _check_equal(dataset: CtrDataset, plain: PlainDataset) -> None:
    items = dataset.items
    expected = sorted(plain.rows["item_feature"], key=lambda row: row["item_id"])
    assert items.ids.tolist() == [row["item_id"] for row in expected]
    assert items.title.to_pylist() == [row["item_title"] for row in expected]
    assert [tags.tolist() for tags in items.tags] == [row["item_tags"] for row in expected]
    for column in ("likes_level", "views_level"):
        assert getattr(items, column).tolist() == [row[column] for row in expected]
    item_of_row = dict(zip(items.item_id.tolist(), items.ids.tolist(), strict=True))
    users = dataset.users
    user_of_row = dict(zip(users.rows.tolist(), users.ids.tolist(), strict=True)) if users else {}
    for name, split in dataset.splits.items():
        rows = plain.rows[name]
        lists = [dataset.histories[index].tolist() for index in split.history]
        columns_of_split: dict[str, list[Any]] = {
            "user_id": [user_of_row.get(user, user) for user in split.user_id.tolist()],
            "item_id": [item_of_row[item] for item in split.item_id.tolist()],
            "item_seq": [[item_of_row[item] for item in history] for history in lists],
            "likes_level": split.likes_level.tolist(),
            "views_level": split.views_level.tolist(),
        }
        if split.label is not None:
            columns_of_split["label"] = split.label.tolist()
        if split.row_id is not None:
            columns_of_split["ID"] = split.row_id.tolist()
        for column, values in columns_of_split.items():
            assert values == [row[column] for row in rows], (name, column)


def _check(files: dict[str, pa.Table], row_group: int, ends: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write(root, files, row_group)
        plain = read_plainly(root)
        starts = _split(root / "train.parquet", ends) if ends else {}
        if not plain.faults:
            event("read")
            _check_equal(build_dataset(find_data(root)), plain)
            return
        event("refused")
        with pytest.raises(DataError) as error:
            build_dataset(find_data(root))
        assert _place(error.value, starts) in plain.faults, (error.value, plain.faults)
        assert error.value.fix


_drawn = given(
    files=files_with_faults(),
    row_group=st.integers(1, 4),
    ends=st.lists(st.integers(0, 6), max_size=2),
)


@_QUICK
@_drawn
def test_the_reader_agrees_with_the_plain_reader(
    files: dict[str, pa.Table], row_group: int, ends: list[int]
) -> None:
    _check(files, row_group, ends)


@pytest.mark.slow
@_LONG
@_drawn
def test_the_reader_agrees_with_the_plain_reader_on_more_examples(
    files: dict[str, pa.Table], row_group: int, ends: list[int]
) -> None:
    _check(files, row_group, ends)


@settings(_QUICK, max_examples=15)
@given(files=valid_files())
def test_csv_and_legacy_lists_give_the_same_dataset(files: dict[str, Columns]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        roots = [Path(folder) / kind for kind in ("plain", "csv", "legacy")]
        for root in roots:
            root.mkdir()
        is_text = isinstance(files["item_feature"]["item_id"][0], str)
        lists = pa.list_(pa.string() if is_text else pa.int64())
        for name, columns in files.items():
            types = {
                "item_seq": lists,
                "item_tags": pa.list_(pa.int64()),
                "item_title": pa.string(),
            }
            table = pa.table({c: pa.array(values, types.get(c)) for c, values in columns.items()})
            pq.write_table(table, roots[0] / f"{name}.parquet")
            if "item_seq" in columns:
                write_without_list_group(roots[2] / f"{name}.parquet", table, "item_seq")
            else:
                pq.write_table(table, roots[2] / f"{name}.parquet")
            write_csv(roots[1] / f"{name}.csv", columns)
        plain = read_plainly(roots[0])
        assert not plain.faults
        for root in roots:
            _check_equal(build_dataset(find_data(root)), plain)


def test_the_plain_reader_finds_faults() -> None:
    # Without this test, the tests above would also pass if neither reader found any fault.
    files = {
        "item_feature": pa.table(
            {
                "item_id": [1, 2],
                "item_title": ["a", "b"],
                "item_tags": [[1], [-1]],
                "likes_level": [0, 11],
                "views_level": [0, 0],
            }
        )
    }
    interactions = {
        "user_id": [1, 0],
        "item_id": [3, 1],
        "item_seq": [[0, 1], [1, 0]],
        "likes_level": [1, 1],
        "views_level": [1, None],
    }
    files["train"] = files["valid"] = pa.table({**interactions, "label": [1, 2]})
    files["test"] = pa.table({**interactions, "ID": [5, 5]})
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), files, 1)
        faults = read_plainly(Path(folder)).faults
    assert ("item_feature.parquet", "item_tags", 1) in faults
    assert ("item_feature.parquet", "likes_level", 1) in faults
    expected = {("user_id", 1), ("item_id", 0), ("item_seq", 1), ("views_level", 1), ("label", 1)}
    assert {(column, row) for file, column, row in faults if file == "train.parquet"} == expected
    assert ("test.parquet", "ID", 1) in faults
    assert {(column, row) for file, column, row in faults if file == "valid.parquet"} == expected
