"""The parquet files of the sample dataset, written row group by row group."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.sample.behaviour import MAX_HISTORY, Impressions
from mmctr_pipeline.sample.catalogue import MAX_TAGS, Catalogue
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.given import ITEM_DIM, GivenVectors

logger = logging.getLogger(__name__)

_INT_LIST = pa.list_(pa.int64())
_FLOAT_LIST = pa.list_(pa.float32())

SEQUENCE_SCHEMA = pa.schema([("user_id", pa.int64()), ("item_seq", _INT_LIST)])
LABELLED_SCHEMA = pa.schema(
    [
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("item_seq", _INT_LIST),
        ("likes_level", pa.int64()),
        ("views_level", pa.int64()),
        ("label", pa.int64()),
    ]
)
TEST_SCHEMA = pa.schema([*list(LABELLED_SCHEMA)[:-1], ("ID", pa.int64())])
ITEM_FEATURE_SCHEMA = pa.schema(
    [
        ("item_id", pa.int64()),
        ("item_title", pa.string()),
        ("item_tags", _INT_LIST),
        ("likes_level", pa.int64()),
        ("views_level", pa.int64()),
        ("txt_emb_BERT", _FLOAT_LIST),
        ("img_emb_CLIPRN50", _FLOAT_LIST),
    ]
)
ITEM_INFO_SCHEMA = pa.schema(
    [("item_id", pa.int64()), ("item_tags", _INT_LIST), ("item_emb_d128", _FLOAT_LIST)]
)

LIST_OPTIONS: dict[str, Any] = {"compression": "zstd", "compression_level": 1}
"""How files of interactions are written: padding compresses to nothing."""

# Vectors of noise cannot be compressed, and nearly every number in them is different.
_VECTOR_OPTIONS: dict[str, Any] = {
    "compression": {"item_title": "zstd", "item_tags.list.element": "zstd"},
    "use_dictionary": ["likes_level", "views_level"],
}
_ITEMS_PER_GROUP = 4_096


def labelled_batch(rows: Impressions, user_id: np.ndarray, catalogue: Catalogue) -> pa.RecordBatch:
    """Return one chunk of train or valid; `user_id` `(U,)` are the ids of the chunk's users."""
    columns = [*_common_columns(rows, user_id, catalogue), rows.label]
    return pa.record_batch(columns, schema=LABELLED_SCHEMA)


def unlabelled_batch(
    rows: Impressions, user_id: np.ndarray, catalogue: Catalogue, first_row_id: int
) -> pa.RecordBatch:
    """Return one chunk of test, whose `ID` counts on from `first_row_id`."""
    row_id = np.arange(first_row_id, first_row_id + len(rows))
    columns = [*_common_columns(rows, user_id, catalogue), row_id]
    return pa.record_batch(columns, schema=TEST_SCHEMA)


def sequence_batch(rows: Impressions, user_id: np.ndarray) -> pa.RecordBatch:
    """Return one row per history: who, and the padded list."""
    padded = left_padded(rows.histories, MAX_HISTORY)
    columns = [user_id[rows.user_of_history], _lists(padded, _INT_LIST)]
    return pa.record_batch(columns, schema=SEQUENCE_SCHEMA)


def left_padded(lists: Ragged, width: int) -> np.ndarray:
    """Return `(N, width) int64`, each list at the right end of its row, zeros before it."""
    padded = np.zeros((len(lists), width), dtype=np.int64)
    row = np.repeat(np.arange(len(lists)), lists.lengths)
    column = width - lists.offsets[1:][row] + np.arange(len(lists.values))
    padded[row, column] = lists.values
    return padded


def write_item_feature(
    path: Path, catalogue: Catalogue, titles: list[str], config: SampleConfig
) -> None:
    """Write `item_feature.parquet`: titles, tags, levels and two given vector columns."""
    given = GivenVectors(catalogue, config)
    progress = Progress(logger, "item_feature.parquet", len(catalogue), "items")
    with pq.ParquetWriter(path, ITEM_FEATURE_SCHEMA, **_VECTOR_OPTIONS) as writer:
        for rows in _groups(len(catalogue)):
            text, image = given.text_and_image(rows)
            tags = catalogue.tags.take(np.arange(rows.start, rows.stop))
            columns = [
                catalogue.item_id[rows],
                pa.array(titles[rows], pa.string()),
                pa.ListArray.from_arrays(
                    tags.offsets.astype(np.int32), pa.array(tags.values, pa.int64())
                ),
                catalogue.likes_level[rows],
                catalogue.views_level[rows],
                _lists(text, _FLOAT_LIST),
                _lists(image, _FLOAT_LIST),
            ]
            writer.write_batch(pa.record_batch(columns, schema=ITEM_FEATURE_SCHEMA))
            progress.advance(rows.stop - rows.start)


def write_item_info(path: Path, catalogue: Catalogue, config: SampleConfig) -> None:
    """Write `item_info.parquet`: one row per id from 0, row 0 being all zeros."""
    given = GivenVectors(catalogue, config)
    padding = [
        np.zeros(1, dtype=np.int64),
        _lists(np.zeros((1, MAX_TAGS), dtype=np.int64), _INT_LIST),
        _lists(np.zeros((1, ITEM_DIM), dtype=np.float32), _FLOAT_LIST),
    ]
    with pq.ParquetWriter(path, ITEM_INFO_SCHEMA, **_VECTOR_OPTIONS) as writer:
        writer.write_batch(pa.record_batch(padding, schema=ITEM_INFO_SCHEMA))
        for rows in _groups(len(catalogue)):
            tags = catalogue.tags.take(np.arange(rows.start, rows.stop))
            columns = [
                catalogue.item_id[rows],
                _lists(left_padded(tags, MAX_TAGS), _INT_LIST),
                _lists(given.item(rows), _FLOAT_LIST),
            ]
            writer.write_batch(pa.record_batch(columns, schema=ITEM_INFO_SCHEMA))


def _common_columns(
    rows: Impressions, user_id: np.ndarray, catalogue: Catalogue
) -> list[pa.Array | np.ndarray]:
    padded = left_padded(rows.histories, MAX_HISTORY)[rows.history]
    return [
        user_id[rows.user],
        rows.item_id,
        _lists(padded, _INT_LIST),
        catalogue.likes_level[rows.item_id - 1],
        catalogue.views_level[rows.item_id - 1],
    ]


def _lists(matrix: np.ndarray, kind: pa.ListType) -> pa.Array:
    n, width = matrix.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1), kind.value_type))


def _groups(n: int) -> Iterator[slice]:
    for start in range(0, n, _ITEMS_PER_GROUP):
        yield slice(start, min(start + _ITEMS_PER_GROUP, n))
