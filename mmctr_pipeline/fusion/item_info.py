"""The fused vectors as FuxiCTR reads them: `item_id`, `item_tags`, `item_emb_d128`."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.atomic import atomic_write

FILE_NAMES = {
    "pca": "item_info_fused_multimodal.parquet",
    "attention": "custom_item_embeddings.parquet",
}
"""File name by fusion method, as its recipe expects it."""

N_TAGS = 5


def write_item_info(
    path: Path, fused: VectorTable, items: ItemTable, item_info: Path | None = None
) -> int:
    """Write one row per item id from 0 to the largest, atomically; return the number of rows.

    Columns: `item_id` int64; `item_tags`, a list of 5 int64, left-padded with 0; `item_emb_d128`,
    a list of float32. Row 0, the padding item, and ids without an item are all zeros. The schema
    metadata `mmctr.identity` names the transform that made the vectors. Raises `ValueError` if
    `fused` and `items` have different items.

    Parameters
    ----------
    path
        Where to write.
    fused
        Fused vectors with the padding row 0.
    items
        The item table; its tags are used, the last five of each item, unless `item_info` has tags.
    item_info
        The file of that name in the data set.
    """
    expected = np.concatenate([[0], items.item_id])
    if not np.array_equal(fused.item_id, expected):
        raise ValueError(
            f"there are fused vectors of {len(fused.item_id) - 1:,} items, and {len(items):,} rows "
            "in the item table, but their ids differ: item_feature has changed since the titles "
            "were encoded; materialise text_embeddings and image_embeddings again"
        )
    if fused.vectors[0].any():
        raise ValueError("row 0 is the padding item; its fused vector must be zero")
    n_rows = int(expected[-1]) + 1
    vectors = np.zeros((n_rows, fused.dim), dtype=np.float32)
    vectors[fused.item_id] = fused.vectors
    tag_id, lists = items.item_id, items.tags
    if item_info is not None and "item_tags" in pq.read_schema(item_info).names:
        source = pq.read_table(item_info, columns=["item_id", "item_tags"])
        tag_id = source.column("item_id").to_numpy()
        lists = Ragged.from_arrow(source.column("item_tags"))
    tags = np.zeros((n_rows, N_TAGS), dtype=np.int64)
    listed = (tag_id >= 1) & (tag_id < n_rows)
    # Zeros and cuts on the left, as FuxiCTR pads and cuts.
    tags[tag_id[listed]] = lists.left_padded(N_TAGS)[listed]
    table = pa.table(
        {
            "item_id": pa.array(np.arange(n_rows, dtype=np.int64)),
            "item_tags": _list_column(tags),
            "item_emb_d128": _list_column(vectors),
        }
    )
    table = table.replace_schema_metadata({"mmctr.identity": fused.identity})
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary)
    return n_rows


def _list_column(rows: np.ndarray) -> pa.ListArray:
    offsets = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, rows.ravel())
