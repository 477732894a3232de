"""Builds item tables from a few titles, also from titles that are not UTF-8."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ragged import Ragged


def item_table(
    titles: Sequence[str | None] | pa.Array, tags: Sequence[Sequence[int]] | None = None
) -> ItemTable:
    """Return items with ids 3, 5, 7 and so on."""
    n = len(titles)
    return ItemTable(
        ids=np.arange(3, 3 + 2 * n, 2),
        item_id=np.arange(3, 3 + 2 * n, 2, dtype=np.int32),
        title=titles if isinstance(titles, pa.Array) else pa.array(titles, pa.string()),
        tags=Ragged.from_lists([[]] * n if tags is None else tags),
        likes_level=np.zeros(n, np.int8),
        views_level=np.zeros(n, np.int8),
    )


def unchecked_titles(raw: Sequence[bytes | None]) -> pa.Array:
    """Return a string array of arbitrary bytes, as from parquet: Arrow does not validate them."""
    return pa.array(raw, pa.binary()).view(pa.string())
