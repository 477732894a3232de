"""The table for FuxiCTR: one row per id, tags and vectors in their places."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.item_info import write_item_info

ITEMS = ItemTable(
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
    assert write_item_info(path, fused(), ITEMS) == 6
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


def test_vectors_of_other_items_are_refused_and_the_old_file_is_kept(tmp_path: Path) -> None:
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
