"""Write the parquet files of the sample dataset, row group by row group."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.sample.behaviour import MAX_HISTORY, Impressions
from mmctr_pipeline.sample.catalogue import CATEGORIES, MAX_TAGS, STYLES, Catalogue
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.given import GivenVectors
from mmctr_pipeline.sample.titles import describe

logger = logging.getLogger(__name__)

_INT_LIST = pa.list_(pa.int64())
_FLOAT_LIST = pa.list_(pa.float32())
_LEVELS = {"likes_level": pa.int64(), "views_level": pa.int64()}
_IMPRESSION = {"user_id": pa.int64(), "item_id": pa.int64(), "item_seq": _INT_LIST, **_LEVELS}

SEQUENCE_SCHEMA = pa.schema({"user_id": pa.int64(), "item_seq": _INT_LIST})
LABELLED_SCHEMA = pa.schema({**_IMPRESSION, "label": pa.int64()})
TEST_SCHEMA = pa.schema({**_IMPRESSION, "ID": pa.int64()})
ITEM_FEATURE_SCHEMA = pa.schema(
    {
        "item_id": pa.int64(),
        "item_title": pa.string(),
        "item_tags": _INT_LIST,
        **_LEVELS,
        "txt_emb_BERT": _FLOAT_LIST,
        "img_emb_CLIPRN50": _FLOAT_LIST,
    }
)
ITEM_INFO_SCHEMA = pa.schema(
    {"item_id": pa.int64(), "item_tags": _INT_LIST, "item_emb_d128": _FLOAT_LIST}
)

LIST_OPTIONS: dict[str, Any] = {"compression": "zstd", "compression_level": 1}
"""Writer options for interactions, whose padded histories compress well."""

# Vector columns are neither compressed nor dictionary-encoded: hardly any number occurs twice.
_VECTOR_OPTIONS: dict[str, Any] = {
    "compression": {"item_title": "zstd", "item_tags.list.element": "zstd"},
    "use_dictionary": ["likes_level", "views_level"],
}
_ITEMS_PER_GROUP = 4_096


def impression_batch(
    rows: Impressions, user_id: np.ndarray, catalogue: Catalogue, first_row_id: int | None
) -> pa.RecordBatch:
    """Return one chunk of a split.

    Parameters
    ----------
    rows
        The rows of the chunk.
    user_id
        Ids of the chunk's users, `(U,)`.
    catalogue
        All items.
    first_row_id
        For test, the first `ID` of the chunk. None for train and valid, which have labels.
    """
    padded = rows.histories.left_padded(MAX_HISTORY)[rows.history]
    if first_row_id is None:
        schema, last_column = LABELLED_SCHEMA, rows.label
    else:
        schema, last_column = TEST_SCHEMA, np.arange(first_row_id, first_row_id + len(rows))
    columns = [
        user_id[rows.user],
        rows.item_id,
        _lists(padded, _INT_LIST),
        catalogue.likes_level[rows.item_id - 1],
        catalogue.views_level[rows.item_id - 1],
        last_column,
    ]
    return pa.record_batch(columns, schema=schema)


def sequence_batch(rows: Impressions, user_id: np.ndarray) -> pa.RecordBatch:
    """Return one row per history: the user and the padded list."""
    padded = rows.histories.left_padded(MAX_HISTORY)
    columns = [user_id[rows.user_of_history], _lists(padded, _INT_LIST)]
    return pa.record_batch(columns, schema=SEQUENCE_SCHEMA)


def write_item_feature(
    path: Path, catalogue: Catalogue, titles: list[str], config: SampleConfig
) -> None:
    """Write `item_feature.parquet`: titles, tags, levels and two given vector columns.

    Parameters
    ----------
    path
        The file.
    catalogue
        All items.
    titles
        One title per item.
    config
        Settings of the sample dataset.
    """
    text = GivenVectors(catalogue, config.seed, "text")
    image = GivenVectors(catalogue, config.seed, "image")
    progress = Progress(logger, "item_feature.parquet", len(catalogue), "items")
    with pq.ParquetWriter(path, ITEM_FEATURE_SCHEMA, **_VECTOR_OPTIONS) as writer:
        for rows in _groups(len(catalogue)):
            tags = catalogue.tags.take(np.arange(rows.start, rows.stop))
            columns = [
                catalogue.item_id[rows],
                pa.array(titles[rows], pa.string()),
                pa.ListArray.from_arrays(
                    tags.offsets.astype(np.int32), pa.array(tags.values, pa.int64())
                ),
                catalogue.likes_level[rows],
                catalogue.views_level[rows],
                _lists(text.next(rows), _FLOAT_LIST),
                _lists(image.next(rows), _FLOAT_LIST),
            ]
            writer.write_batch(pa.record_batch(columns, schema=ITEM_FEATURE_SCHEMA))
            progress.advance(rows.stop - rows.start)


def write_item_info(path: Path, catalogue: Catalogue, config: SampleConfig) -> None:
    """Write `item_info.parquet`: a row for each item, and before id 1 a padding row of zeros."""
    given = GivenVectors(catalogue, config.seed, "item")
    padding = (np.zeros((1, MAX_TAGS), np.int64), np.zeros((1, given.dim), np.float32))
    with pq.ParquetWriter(path, ITEM_INFO_SCHEMA, **_VECTOR_OPTIONS) as writer:
        if catalogue.first_id == 1:
            writer.write_batch(_item_info_batch(np.zeros(1, np.int64), *padding))
        for rows in _groups(len(catalogue)):
            tags = catalogue.tags.take(np.arange(rows.start, rows.stop)).left_padded(MAX_TAGS)
            writer.write_batch(_item_info_batch(catalogue.item_id[rows], tags, given.next(rows)))


def write_item_truth(path: Path, catalogue: Catalogue) -> None:
    """Write category, style and caption of each item, and whether it is cold."""
    truth = pa.table(
        {
            "item_id": catalogue.item_id,
            "category": [CATEGORIES[index] for index in catalogue.category],
            "style": [STYLES[index] for index in catalogue.style],
            "caption": describe(catalogue),
            "cold": catalogue.cold,
        }
    )
    pq.write_table(truth, path)


def _item_info_batch(item_id: np.ndarray, tags: np.ndarray, vectors: np.ndarray) -> pa.RecordBatch:
    columns = [item_id, _lists(tags, _INT_LIST), _lists(vectors, _FLOAT_LIST)]
    return pa.record_batch(columns, schema=ITEM_INFO_SCHEMA)


def _lists(matrix: np.ndarray, kind: pa.ListType) -> pa.Array:
    """Return a list column with one list for each row of the matrix."""
    n, width = matrix.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1), kind.value_type))


def _groups(n: int) -> Iterator[slice]:
    for start in range(0, n, _ITEMS_PER_GROUP):
        yield slice(start, min(start + _ITEMS_PER_GROUP, n))
