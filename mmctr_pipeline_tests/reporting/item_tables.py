"""Item tables and vectors for tests of neighbours."""

import numpy as np
import pyarrow as pa

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable

N_ITEMS = 40
IDS = np.arange(10, 10 + 3 * N_ITEMS, 3, dtype=np.int32)


def item_table(titles: pa.Array, ids: np.ndarray = IDS) -> ItemTable:
    n_items = len(ids)
    return ItemTable(
        ids=ids,
        item_id=np.arange(1, n_items + 1, dtype=np.int32),
        title=titles,
        tags=Ragged(np.zeros(0, np.int32), np.zeros(n_items + 1, np.int64)),
        likes_level=np.zeros(n_items, np.int8),
        views_level=np.zeros(n_items, np.int8),
    )


ITEMS = item_table(pa.array([f"video {item}" for item in IDS]))


def vector_table(
    vectors: np.ndarray, item_id: np.ndarray = IDS, present: np.ndarray | None = None
) -> VectorTable:
    present = np.ones(len(item_id), bool) if present is None else present
    return VectorTable(item_id, np.asarray(vectors, np.float32), present, "a test")


def random_vectors(seed: int, dim: int = 8, item_id: np.ndarray = IDS) -> VectorTable:
    return vector_table(np.random.default_rng(seed).normal(size=(len(item_id), dim)), item_id)
