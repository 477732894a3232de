"""The fused vectors as FuxiCTR reads them: `item_id`, `item_tags`, `item_emb_d128`."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ids import ids_to_arrow, with_padding
from mmctr_pipeline.data.items import read_item_info_tags
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.parquet import write_parquet
from mmctr_pipeline.fusion.errors import FusionError

FILE_NAMES = {
    "pca": "item_info_fused_multimodal.parquet",
    "pca_each": "item_info_fused_multimodal.parquet",
    "attention": "custom_item_embeddings.parquet",
}
"""File name by fusion method, as its recipe expects it; any other method's is that of pca."""

N_TAGS = 5

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ItemInfo:
    """Counts of a written table: its rows, and the items that had no row in the source of tags."""

    n_rows: int
    n_without_source: int


def write_item_info(
    path: Path, fused: VectorTable, items: ItemTable, item_info: Path | None = None
) -> ItemInfo:
    """Write a row for the padding item, and then one row per item, atomically.

    Columns: `item_id`, the data's id, int64 or string; `item_tags`, a list of 5 int64, left-padded
    with 0; `item_emb_d128`, a list of float32. If the ids are dense integers, there is one row per
    integer from 0 to the largest, as FuxiCTR's readers expect. The padding item and integers
    without an item have zeros. The schema metadata `mmctr.identity` names the transform that made
    the vectors. Raises `FusionError` if `fused` and `items` have different items, and `DataError`
    if `item_info` has invalid tags. Items that it lacks get no tags; they are counted and logged.

    Parameters
    ----------
    path
        Where to write.
    fused
        Fused vectors with the padding row 0.
    items
        The item table. Its tags are used unless `item_info` has tags. Of either, the last five tags
        of each item are written.
    item_info
        The file item_info of the data set, if there is one.
    """
    expected = with_padding(items.ids)
    if not np.array_equal(fused.item_id, expected):
        raise FusionError(
            f"there are fused vectors of {len(fused.item_id) - 1:,} items, and {len(items):,} rows "
            "in the item table, but their ids differ: item_feature has changed since the titles "
            "were encoded; materialise text_embeddings and image_embeddings again"
        )
    if fused.vectors[0].any():
        raise ValueError("row 0 is the padding item; its fused vector must be zero")
    lists, n_without_source = items.tags, 0
    if item_info is not None and (source := read_item_info_tags(item_info, items)):
        lists, has_row = source
        n_without_source = int((~has_row).sum())
        if n_without_source:
            logger.warning(
                f"{n_without_source:,} items have no row in {item_info} and get no tags in "
                f"{path.name}; the first is {items.ids[np.argmin(has_row)]}. Fix: add their rows"
            )
    id_map = items.id_map
    vectors = np.zeros((id_map.n_rows, fused.dim), dtype=np.float32)
    vectors[items.item_id] = fused.vectors[1:]
    tags = np.zeros((id_map.n_rows, N_TAGS), dtype=np.int64)
    # Padded and cut on the left, as in FuxiCTR.
    tags[items.item_id] = lists.left_padded(N_TAGS)
    table = pa.table(
        {
            "item_id": ids_to_arrow(id_map.ids_at(np.arange(id_map.n_rows))),
            "item_tags": _list_column(tags),
            "item_emb_d128": _list_column(vectors),
        }
    )
    table = table.replace_schema_metadata({"mmctr.identity": fused.identity})
    with atomic_write(path) as temporary:
        write_parquet(table, temporary)
    return ItemInfo(id_map.n_rows, n_without_source)


def _list_column(rows: np.ndarray) -> pa.ListArray:
    offsets = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, rows.ravel())
