"""Hostile tables are refused.

They are damaged, claim more data than fits in memory, or expand to more.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.build import build_dataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline_tests.data import small_data
from mmctr_pipeline_tests.data.parquet_footers import (
    BINARY,
    COLUMNS,
    FILE_PATH,
    GROUP_ROWS,
    I32,
    I64,
    LIST,
    N_BYTES,
    N_ROWS,
    N_VALUES,
    NAME,
    REPETITION,
    ROW_GROUPS,
    SCHEMA,
    Struct,
    chunks,
    edit_footer,
)
from mmctr_pipeline_tests.data.read_folders import expect_data_error


def _claiming(column: str, field: int, size: int) -> Callable[[Struct], None]:
    """Return an edit of a footer that sets how many values or bytes a column claims to have."""

    def claim(footer: Struct) -> None:
        for chunk in chunks(footer, column):
            chunk[field] = (I64, size)

    return claim


def _repeat_row_group(footer: Struct) -> None:
    """Declare 20,000 row groups that share the pages of the first."""
    element, groups = footer[ROW_GROUPS][1]
    footer[ROW_GROUPS] = (LIST, (element, groups * 20_000))
    footer[N_ROWS] = (I64, footer[N_ROWS][1] * 20_000)


@pytest.mark.parametrize(
    ("name", "column", "field", "size"),
    [
        ("train", "item_seq", N_VALUES, 2**40),
        ("train", "item_seq", N_BYTES, 2**44),
        ("train", "user_id", N_VALUES, 2**40),
        ("item_feature", "item_title", N_BYTES, 2**44),
        ("item_feature", "item_tags", N_VALUES, 2**40),
    ],
)
def test_a_column_that_claims_more_than_fits_in_memory_is_refused(
    tmp_path: Path, name: str, column: str, field: int, size: int
) -> None:
    root = small_data.write_data(tmp_path)
    path = root / f"{name}.parquet"
    edit_footer(path, _claiming(column, field, size))
    error = expect_data_error(root)
    assert (error.file, error.column) == (path, column)
    assert "more than half of this machine's memory" in str(error)


def test_repeated_rows_that_expand_to_more_than_fits_in_memory_are_refused(tmp_path: Path) -> None:
    # Run-length encoding keeps the file small, and so do row groups that share their pages.
    root = small_data.write_data(tmp_path)
    n_rows = 1_000_000
    ones = np.ones(n_rows, np.int32)
    columns = {**dict.fromkeys(small_data.train(), ones), "label": np.arange(n_rows) % 2}
    columns["item_seq"] = pa.ListArray.from_arrays(np.zeros(n_rows + 1, np.int32), ones[:0])
    path = small_data.write(root / "train.parquet", columns)
    edit_footer(path, _repeat_row_group)
    assert pq.read_metadata(path).num_rows == 20_000_000_000
    assert path.stat().st_size < 20_000_000
    error = expect_data_error(root)
    assert error.file == path
    assert "20,000,000,000 rows of 24 bytes take 480 GB" in str(error)


def test_a_row_group_that_claims_rows_it_lacks_is_refused(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)

    def claim(footer: Struct) -> None:
        footer[ROW_GROUPS][1][1][0][GROUP_ROWS] = (I64, 1_000_000)
        footer[N_ROWS] = (I64, 1_000_000)

    edit_footer(root / "train.parquet", claim)
    error = expect_data_error(root)
    assert error.file == root / "train.parquet"


@pytest.mark.slow
def test_one_long_title_in_every_row_is_refused(tmp_path: Path) -> None:
    # All rows have the same title. The titles take 600 GB in memory, but the file stores the title
    # only once, in the dictionary of the column.
    n_items = 2_000_000
    title = pa.DictionaryArray.from_arrays(np.zeros(n_items, np.int32), ["t" * 300_000])
    levels = np.zeros(n_items, np.int8)
    columns = {
        "item_id": np.arange(1, n_items + 1),
        "item_title": title,
        "item_tags": pa.ListArray.from_arrays(np.zeros(n_items + 1, np.int32), levels[:0]),
        "likes_level": levels,
        "views_level": levels,
    }
    root = small_data.write_data(tmp_path)
    path = root / "item_feature.parquet"
    pq.write_table(pa.table(columns), path, store_schema=False, use_dictionary=["item_title"])
    assert path.stat().st_size < 20_000_000
    error = expect_data_error(root)
    assert error.file == path
    assert "2,000,000 rows of 300," in str(error)


def test_a_title_of_megabytes_is_refused(tmp_path: Path) -> None:
    titles = small_data.item_feature()["item_title"]
    titles[4] = "long " * 300_000
    root = small_data.write_data(
        tmp_path, item_feature={**small_data.item_feature(), "item_title": titles}
    )
    error = expect_data_error(root)
    assert (error.column, error.row) == ("item_title", 4)
    assert "the title has 1,500,000 bytes, more than 1,048,576" in str(error)


def _nest(footer: Struct) -> None:
    """Declare a schema of 100,000 nested groups."""
    elements = footer[SCHEMA][1][1]
    n_children = 5  # the number of the field SchemaElement.num_children
    group = {REPETITION: (I32, 1), NAME: (BINARY, b"g"), n_children: (I32, 1)}
    elements[1:1] = [group] * 100_000


@pytest.mark.parametrize(
    "damage", ["deeply_nested", "no_footer", "wrong_footer_length", "not_parquet", "empty"]
)
def test_malformed_files_are_refused(tmp_path: Path, damage: str) -> None:
    root = small_data.write_data(tmp_path)
    path = root / "train.parquet"
    content = path.read_bytes()
    match damage:
        case "deeply_nested":
            edit_footer(path, _nest)
        case "no_footer":
            path.write_bytes(content[:-8] + b"\0" * 8)
        case "wrong_footer_length":
            path.write_bytes(content[:-8] + (2**31).to_bytes(4, "little") + b"PAR1")
        case "not_parquet":
            path.write_bytes(b"PK\x03\x04" + content[4:-4] + b"PK\x05\x06")
        case "empty":
            path.write_bytes(b"")
    error = expect_data_error(root)
    assert error.file == path
    assert "not a readable parquet file" in str(error)


def test_a_pipe_is_not_opened_as_a_table(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    path = root / "train.parquet"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataNotFoundError, match=r"train\.parquet not found"):
        find_data(root)


def test_a_column_that_points_to_another_file_is_read_from_its_own_file(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)

    def point_elsewhere(footer: Struct) -> None:
        for group in footer[ROW_GROUPS][1][1]:
            for chunk in group[COLUMNS][1][1]:
                chunk[FILE_PATH] = (BINARY, b"/etc/passwd")

    edit_footer(root / "train.parquet", point_elsewhere)
    assert build_dataset(find_data(root)).train.item_id.tolist() == [4, 5, 6, 7]


@pytest.mark.slow
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    path = root / "train.parquet"
    pq.write_table(pa.table(small_data.train()), path, write_page_checksum=True)
    content = path.read_bytes()
    expected = build_dataset(find_data(root))
    random = np.random.default_rng(0)
    n_refused = 0
    for position in random.integers(4, len(content) - 8, 400):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            found = build_dataset(find_data(root))
        except DataError as error:
            n_refused += error.file == path
        else:
            # The bit does not matter, for example because it is in a statistic of the footer.
            assert found.train.item_id.tolist() == expected.train.item_id.tolist()
            assert found.train.history.tolist() == expected.train.history.tolist()
    assert n_refused > 100
