"""The table for FuxiCTR has a row for each id, with its tags and its vector."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.item_info import ItemInfo, write_item_info

ITEMS = ItemTable(
    ids=np.array([1, 2, 5]),
    item_id=np.array([1, 2, 5], dtype=np.int32),
    title=pa.array(["a", "b", "c"]),
    tags=Ragged.from_lists([[3], [], [1, 2, 3, 4, 5, 6]]),
    likes_level=np.zeros(3, np.int8),
    views_level=np.zeros(3, np.int8),
)


def fused() -> VectorTable:
    vectors = np.arange(16, dtype=np.float32).reshape(4, 4)
    vectors[0] = 0
    ids = np.array([0, 1, 2, 5], dtype=np.int32)
    return VectorTable(ids, vectors, ids > 0, "pca")


def test_every_id_from_zero_has_a_row(tmp_path: Path) -> None:
    path = tmp_path / "item_info.parquet"
    assert write_item_info(path, fused(), ITEMS) == ItemInfo(6, 0)
    table = pq.read_table(path)
    assert table.column_names == ["item_id", "item_tags", "item_emb_d128"]
    assert table.schema.field("item_emb_d128").type == pa.list_(pa.float32())
    assert table.schema.field("item_tags").type == pa.list_(pa.int64())
    assert table.schema.metadata[b"mmctr.identity"] == b"pca"
    rows = table.to_pylist()
    assert [row["item_id"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["item_emb_d128"] for row in rows] == [
        [0, 0, 0, 0],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [12, 13, 14, 15],
    ]
    assert [row["item_tags"] for row in rows] == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 3],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [2, 3, 4, 5, 6],
    ]


def test_tags_come_from_item_info_if_it_has_them(tmp_path: Path) -> None:
    source, path = tmp_path / "source.parquet", tmp_path / "item_info.parquet"
    tags = [[0, 0, 0, 8, 9], [0, 0, 0, 0, 0], [0, 0, 0, 0, 7]]
    # In another order, with the padding row, and with an item missing from the item table.
    ids = pa.array([5, 0, 9], pa.int64())
    pq.write_table(pa.table({"item_id": ids, "item_tags": pa.array(tags)}), source)
    write_item_info(path, fused(), ITEMS, source)
    written = pq.read_table(path).column("item_tags").to_pylist()
    assert written[5] == [0, 0, 0, 8, 9]
    assert written[1] == [0, 0, 0, 0, 0]

    pq.write_table(pa.table({"item_id": ids}), source)
    write_item_info(path, fused(), ITEMS, source)
    assert pq.read_table(path).column("item_tags").to_pylist()[1] == [0, 0, 0, 0, 3]


def test_vectors_that_do_not_fit_the_items_are_refused_and_the_old_file_is_kept(
    tmp_path: Path,
) -> None:
    path = tmp_path / "item_info.parquet"
    write_item_info(path, fused(), ITEMS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="their ids differ"):
        write_item_info(path, fused().aligned_to(np.array([0, 1, 2, 4])), ITEMS)
    moved = fused()
    moved.vectors[0] = 1
    with pytest.raises(ValueError, match="padding item"):
        write_item_info(path, moved, ITEMS)
    assert path.read_bytes() == before


def _write_and_read_tags(
    source: dict[str, Any], tmp_path: Path, items: ItemTable = ITEMS
) -> list[list[int]]:
    """Write the table with the tags in `source`; return the tags of the padding and of `items`."""
    pq.write_table(pa.table(source), tmp_path / "source.parquet")
    ids = np.concatenate([np.zeros(1, items.ids.dtype), items.ids])
    vectors = dataclasses.replace(fused(), item_id=ids)
    path = tmp_path / "item_info.parquet"
    write_item_info(path, vectors, items, tmp_path / "source.parquet")
    table = pq.read_table(path)
    tags = dict(zip(table["item_id"].to_pylist(), table["item_tags"].to_pylist(), strict=True))
    return [tags[item] for item in ids.tolist()]


@pytest.mark.parametrize("ids", [["a", "b", "é"], [5, 2_000_000_000, 2**62]], ids=["text", "large"])
def test_text_and_large_ids_have_one_row_per_item_and_no_gaps(
    tmp_path: Path, ids: list[Any]
) -> None:
    items = dataclasses.replace(ITEMS, ids=np.array(ids), item_id=np.array([1, 2, 3], np.int32))
    padding = "" if isinstance(ids[0], str) else 0
    source = {"item_id": [ids[2], padding, ids[0]], "item_tags": [[0, 7], [0, 0], [8, 9]]}
    assert _write_and_read_tags(source, tmp_path, items) == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 8, 9],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 7],
    ]
    table = pq.read_table(tmp_path / "item_info.parquet")
    assert table["item_id"].to_pylist() == [padding, *ids]
    assert table["item_emb_d128"].to_pylist() == fused().vectors.tolist()


def test_items_without_a_row_are_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pq.write_table(pa.table({"item_id": [5], "item_tags": [[7]]}), tmp_path / "source.parquet")
    path = tmp_path / "item_info.parquet"
    with caplog.at_level(logging.WARNING):
        assert write_item_info(path, fused(), ITEMS, tmp_path / "source.parquet") == ItemInfo(6, 2)
    assert "2 items have no row in" in caplog.text
    assert "the first is 1" in caplog.text


SOURCE = {"item_id": [1, 2, 5], "item_tags": [[0, 1], [0, 2], [3, 4]]}


@pytest.mark.parametrize(
    ("changed", "column", "row", "problem"),
    [
        ({"item_tags": [[0, 1], [0, None], [3, 4]]}, "item_tags", 1, "missing value in it"),
        ({"item_tags": [[0, 1], [0, -2], [3, 4]]}, "item_tags", 1, "-2 is not in 0.."),
        ({"item_tags": [[0, 1], [0, 2**40], [3, 4]]}, "item_tags", 1, "is not in 0.."),
        ({"item_tags": [[0, 1.0], [0, 2.5], [3, 4]]}, "item_tags", None, "double"),
        ({"item_tags": [["a"], ["b"], ["c"]]}, "item_tags", None, "string"),
        ({"item_tags": [1, 2, 3]}, "item_tags", None, "the type is int64, not lists"),
        ({"item_id": [1, 2, 2]}, "item_id", 2, "the value 2 already occurs in row 1"),
        ({"item_id": [1, None, 5]}, "item_id", 1, "the value is missing"),
        ({"item_id": [1, -2, 5]}, "item_id", 1, "-2 is not in 0.."),
        ({"item_id": ["1", "2", "5"]}, "item_id", None, "the ids are strings, but those of"),
        ({"item_id": [1.0, 2.0, 5.0]}, "item_id", None, "double"),
        ({"item_id": [7, 8, 9]}, "item_id", None, "it has none of the 3 items of item_feature"),
        ({"item_id": pa.array([1, 2, 2**63], pa.uint64())}, "item_id", 2, "9223372036854775808"),
    ],
)
def test_invalid_tags_or_ids_are_refused_and_the_old_file_is_kept(
    tmp_path: Path, changed: dict[str, Any], column: str, row: int | None, problem: str
) -> None:
    path = tmp_path / "item_info.parquet"
    write_item_info(path, fused(), ITEMS)
    before = path.read_bytes()
    with pytest.raises(DataError) as error:
        _write_and_read_tags({**SOURCE, **changed}, tmp_path)
    assert (error.value.file.name, error.value.column) == ("source.parquet", column)
    assert error.value.row == row
    assert problem in str(error.value)
    assert path.read_bytes() == before


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    tags = pa.array(SOURCE["item_tags"])
    twice = pa.Table.from_arrays(
        [pa.array(SOURCE["item_id"]), tags, tags], names=["item_id", "item_tags", "item_tags"]
    )
    pq.write_table(twice, tmp_path / "source.parquet")
    with pytest.raises(DataError, match="item_tags: the column occurs 2 times"):
        write_item_info(tmp_path / "out.parquet", fused(), ITEMS, tmp_path / "source.parquet")


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    source = tmp_path / "source.parquet"
    pq.write_table(pa.table(SOURCE), source)
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"source\.parquet"):
        write_item_info(tmp_path / "out.parquet", fused(), ITEMS, source)
