"""The catalogue as a table for Embedding Atlas, a viewer of embeddings."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.ids import ids_to_arrow
from mmctr_pipeline.data.images import ImageIndex
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.reporting.item_display import cover_of, titles_of
from mmctr_pipeline.training.metrics_report import times_in_train

logger = logging.getLogger(__name__)

_COVER_PIXELS, _ROWS_PER_GROUP = 96, 1_000
_COVER_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write_atlas(
    dataset: CtrDataset, vectors: VectorTable, images: ImageIndex | None, path: Path
) -> int:
    """Write a parquet file with a row for each item that has a vector; return their number.

    Its columns are `item_id`, `title`, `cover` (bytes and path of a JPEG picture, as Hugging Face
    datasets hold it), `tags`, `likes_level`, `views_level`, `train_rows` (how often the item occurs
    in train, as a target or in a history) and `vector`.

    Parameters
    ----------
    dataset
        The items, and the train rows to count.
    vectors
        Such as the fused vectors.
    images
        The covers, or None to leave the column out.
    path
        The file; an earlier one is replaced.
    """
    items, aligned = dataset.items, vectors.aligned_to(dataset.items.ids)
    rows = np.flatnonzero(aligned.present)
    times = times_in_train(items.item_id, dataset.train, dataset.histories)
    progress = Progress(logger, path.name, len(rows), "items")

    def table(part: np.ndarray) -> pa.Table:
        ids = items.ids[part]
        columns: dict[str, Any] = {
            "item_id": ids_to_arrow(ids),
            "title": pa.array(titles_of(items, ids).values(), pa.string()),
        }
        if images is not None:
            covers = [_cover(images, item) for item in ids.tolist()]
            columns["cover"] = pa.array(covers, _COVER_TYPE)
        columns |= {
            "tags": pa.array([items.tags[row].tolist() for row in part], pa.list_(pa.int32())),
            "likes_level": items.likes_level[part],
            "views_level": items.views_level[part],
            "train_rows": times[part],
            "vector": pa.array(list(aligned.vectors[part]), pa.list_(pa.float32())),
        }
        progress.advance(len(part))
        return pa.table(columns)

    with (
        atomic_write(path) as temporary,
        pq.ParquetWriter(temporary, table(rows[:0]).schema) as writer,
    ):
        for begin in range(0, len(rows), _ROWS_PER_GROUP):
            writer.write_table(table(rows[begin : begin + _ROWS_PER_GROUP]))
    return len(rows)


def _cover(images: ImageIndex, item: int | str) -> dict[str, bytes | str] | None:
    picture = cover_of(images, item, _COVER_PIXELS)
    if picture is None:
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    # The viewer draws bytes as a picture only if a path beside them ends like that of a picture.
    return {"bytes": buffer.getvalue(), "path": f"{item}.jpg"}
