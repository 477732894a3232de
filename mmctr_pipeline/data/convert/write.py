"""Write converted data in the layout of the MMCTR data set."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.convert.raw_files import RawData
from mmctr_pipeline.data.convert.splits import TEST, TRAIN, VALID, Rows
from mmctr_pipeline.data.ragged import offsets_from_lengths
from mmctr_pipeline.files.progress import Progress

logger = logging.getLogger(__name__)

ITEM_COLUMNS = ("item_id", "item_title", "item_tags", "likes_level", "views_level")
SPLIT_FILES = {TRAIN: "train.parquet", VALID: "valid.parquet", TEST: "test.parquet"}
TEST_LABELS = "test_labels.parquet"

_ROWS_PER_GROUP = 65_536
_COLUMNS = {
    "user_id": pa.int64(),
    "item_id": pa.int64(),
    "item_seq": pa.list_(pa.int64()),
    "likes_level": pa.int64(),
    "views_level": pa.int64(),
}


def write_tables(folder: Path, rows: Rows, raw: RawData) -> dict[str, Any]:
    """Write items, splits, labels of test and names of tags into `folder`.

    Returns the number of items, and counts of each split by file name.
    """
    items = raw.items.select(ITEM_COLUMNS).sort("item_id")
    pq.write_table(items.to_arrow(), folder / "item_feature.parquet", compression="zstd")
    if raw.tag_names:
        tags = pl.DataFrame({"tag_id": range(1, len(raw.tag_names) + 1), "tag_name": raw.tag_names})
        tags.write_csv(folder / "tag_names.csv")
    counts: dict[str, Any] = {"items": len(items)}
    for split, name in SPLIT_FILES.items():
        part = rows.take(rows.split == split)
        _write_split(folder / name, part, items, with_labels=split != TEST)
        counts[name] = _counts(part)
        listed = ", ".join(f"{count:,} {unit}" for unit, count in counts[name].items())
        logger.info(f"{name}: {listed}")
        if split == TEST:
            labels = {"ID": np.arange(len(part)), "label": part.label.astype(np.int64)}
            pq.write_table(pa.table(labels), folder / TEST_LABELS)
    return counts


def _counts(rows: Rows) -> dict[str, int]:
    clicks = rows.label == 1
    return {
        "rows": len(rows),
        "with label 1": int(clicks.sum()),
        "users": len(np.unique(rows.user_id)),
        "items": len(np.unique(rows.item_id)),
    }


def _write_split(path: Path, rows: Rows, items: pl.DataFrame, *, with_labels: bool) -> None:
    """Write one split; test has the column `ID` in place of `label`."""
    schema = pa.schema({**_COLUMNS, ("label" if with_labels else "ID"): pa.int64()})
    item_row = np.searchsorted(items["item_id"].to_numpy(), rows.item_id)
    levels = [items[name].to_numpy()[item_row] for name in ("likes_level", "views_level")]
    last = rows.label if with_labels else np.arange(len(rows))
    progress = Progress(logger, path.name, len(rows))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _groups(len(rows)):
            columns = [rows.user_id[group], rows.item_id[group], _histories(rows, group)]
            columns += [level[group] for level in levels] + [last[group].astype(np.int64)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            progress.advance(group.stop - group.start)


def _groups(n_rows: int) -> Iterator[slice]:
    return (
        slice(start, min(start + _ROWS_PER_GROUP, n_rows))
        for start in range(0, max(n_rows, 1), _ROWS_PER_GROUP)
    )


def _histories(rows: Rows, group: slice) -> pa.Array:
    """Return the histories of some rows, oldest item first, without padding."""
    begin, lengths = rows.begin[group], rows.end[group] - rows.begin[group]
    offsets = offsets_from_lengths(lengths)
    index = np.repeat(begin - offsets[:-1], lengths) + np.arange(offsets[-1])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(rows.liked_items[index], pa.int64())
    )
