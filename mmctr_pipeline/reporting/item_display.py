"""Titles and covers of items as they are shown to people; both may be damaged or missing."""

import numpy as np
import pyarrow as pa
from PIL import Image

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ids import find
from mmctr_pipeline.data.images import ImageIndex
from mmctr_pipeline.encoders.image.decode import UnreadableImageError, open_cover

# Titles are cut at this many bytes; nothing has room for more.
_MAX_TITLE_BYTES = 1200


def titles_of(items: ItemTable, ids: np.ndarray) -> dict[int | str, str]:
    """Return the titles of some items of the table by id; empty where there is none."""
    rows = pa.array(find(ids, items.ids)[0])
    # Parquet does not check that text is UTF-8.
    raw = items.title.take(rows).cast(pa.large_binary()).to_pylist()
    return {
        item: (title or b"")[:_MAX_TITLE_BYTES].decode("utf-8", errors="replace")
        for item, title in zip(ids.tolist(), raw, strict=True)
    }


def cover_of(images: ImageIndex, item_id: int | str, size: int) -> Image.Image | None:
    """Return the cover scaled into a square, or None if it is missing or unreadable."""
    path = images.path(item_id)
    try:
        return None if path is None else open_cover(path, within=size)
    except UnreadableImageError:
        return None
