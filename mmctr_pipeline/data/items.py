"""The item table of item_feature, and item vectors that the data bring along."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.fingerprint import fingerprint_array
from mmctr_pipeline.data.padding import without_zeros
from mmctr_pipeline.data.schemas import ITEM_COLUMNS, VECTOR_FILE_COLUMNS, Column
from mmctr_pipeline.data.validation import (
    Block,
    DataError,
    check_distinct,
    integer_lists,
    integers,
    is_list,
    list_offsets,
    open_parquet,
)
from mmctr_pipeline.data.vectors import VectorTable

_BATCH_ROWS = 4096


def read_items(layout: DataLayout) -> ItemTable:
    """Read the items of item_feature, by ascending id; padding zeros of the tags are dropped.

    A title of blanks only counts as none. Raises `DataError` for what the file must not hold.
    """
    path = layout.item_feature
    with open_parquet(path, ITEM_COLUMNS) as file:
        table = file.read(columns=[column.name for column in ITEM_COLUMNS])
    blocks = {column.name: Block(path, column) for column in ITEM_COLUMNS}
    arrays = {name: _combined(table.column(name)) for name in blocks}
    numbers = {
        name: integers(arrays[name], blocks[name])
        for name in ("item_id", "likes_level", "views_level")
    }
    check_distinct(numbers["item_id"], blocks["item_id"])
    tags = without_zeros(*integer_lists(arrays["item_tags"], blocks["item_tags"]))
    order = np.argsort(numbers["item_id"])
    return ItemTable(
        item_id=numbers["item_id"][order].astype(np.int32),
        title=_titles(arrays["item_title"], order),
        tags=tags.take(order),
        likes_level=numbers["likes_level"][order].astype(np.int8),
        views_level=numbers["views_level"][order].astype(np.int8),
    )


def _titles(titles: pa.Array, order: np.ndarray) -> pa.Array:
    """Return the titles as strings in the order given, null where there are blanks alone.

    Parquet does not check that text is UTF-8, and Arrow's own trimming refuses what is not.
    """
    raw = titles.cast(pa.large_binary()).to_pylist()
    blank = [each is None or not each.decode("utf-8", "replace").strip() for each in raw]
    # What is taken from nowhere is null. `pa.array` would import pandas, which takes long.
    is_there = np.packbits(~np.array(blank, dtype=bool)[order], bitorder="little")
    buffers = [pa.py_buffer(is_there), pa.py_buffer(order)]
    return titles.cast(pa.string()).take(pa.Array.from_buffers(pa.int64(), len(order), buffers))


def read_given_vectors(layout: DataLayout, column: str) -> VectorTable:
    """Read a vector column of item_feature or, failing that, item_info, keyed by item id.

    The padding row (id 0) is dropped. An item whose vector is null or all zeros has none: it is
    masked, and counted in the provenance. The table has the ids of its file, not those of the item
    table: join with `aligned_to`. Raises `DataError` where no file has the column (listing the
    vector columns there are), where every vector is zero, and for vectors of differing length or
    with values that are not finite.
    """
    path = _file_with(layout, column)
    ids, vectors, is_null = _read_vectors(path, column)
    check_distinct(ids, Block(path, VECTOR_FILE_COLUMNS[0]))
    real = np.flatnonzero(ids)
    order = real[np.argsort(ids[real])]
    is_zero = ~is_null & ~vectors.any(axis=1)
    present = ~is_null & ~is_zero
    if not present[order].any():
        raise DataError(
            path,
            "every vector is zero or missing",
            "fill the column in, or choose a preset that encodes titles or images itself",
            column,
        )
    return VectorTable(
        item_id=ids[order].astype(np.int32),
        vectors=vectors[order],
        present=present[order],
        identity=f"given:{path.stem}.{column}:{vectors.shape[1]}",
        provenance={
            "file": path.name,
            "column": column,
            "n_items": len(order),
            "n_null": int(is_null[order].sum()),
            "n_zero": int(is_zero[order].sum()),
            "content_sha256": fingerprint_array(ids[order], vectors[order]),
        },
    )


def _file_with(layout: DataLayout, column: str) -> Path:
    known = []
    for path in (layout.item_feature, layout.item_info):
        if path is None:
            continue
        with open_parquet(path, VECTOR_FILE_COLUMNS) as file:
            vector_columns = [
                field.name for field in file.schema_arrow if _holds_vectors(field.type)
            ]
        if column in vector_columns:
            return path
        known += [f"{path.name}: {', '.join(vector_columns) or 'none'}"]
    raise DataError(
        layout.item_feature,
        f"no vectors of this name; vector columns there are: {'; '.join(known)}",
        "name one of these as the encoder's column, or let the encoder make the vectors",
        column,
    )


def _holds_vectors(data_type: pa.DataType) -> bool:
    return is_list(data_type) and pa.types.is_floating(data_type.value_type)


def _read_vectors(path: Path, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids `(N,) int64`, vectors `(N, D) float32` and which of them are null, `(N,) bool`."""
    ids, parts, nulls = [], [], []
    width: int | None = None
    first_row = 0
    with open_parquet(path, VECTOR_FILE_COLUMNS) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=["item_id", column]):
            array = batch.column(column)
            is_null = array.is_null().to_numpy(zero_copy_only=False)
            block = Block(path, Column(column, "int_list", nullable=True), first_row)
            width = _common_width(array, is_null, width, block)
            flat = _finite(array, is_null, width or 0, block)
            vectors = np.zeros((len(array), width or 0), dtype=np.float32)
            vectors[~is_null] = flat
            ids.append(
                integers(batch.column("item_id"), Block(path, VECTOR_FILE_COLUMNS[0], first_row))
            )
            parts.append(vectors)
            nulls.append(is_null)
            first_row += len(array)
    # Batches before the first vector that is not null could not know the width.
    parts = [
        part if part.shape[1] else np.zeros((len(part), width or 0), np.float32) for part in parts
    ]
    return np.concatenate(ids), np.concatenate(parts), np.concatenate(nulls)


def _common_width(
    array: pa.Array, is_null: np.ndarray, width: int | None, block: Block
) -> int | None:
    lengths = np.diff(list_offsets(array))
    rows = np.flatnonzero(~is_null)
    if not len(rows):
        return width
    width = int(lengths[rows[0]]) if width is None else width
    other = rows[lengths[rows] != width]
    if len(other):
        raise block.error(
            other[0],
            f"the vector has {lengths[other[0]]} dimensions where the first has {width}",
            "make all vectors of one length; write null where an item has none",
        )
    return width


def _finite(array: pa.Array, is_null: np.ndarray, width: int, block: Block) -> np.ndarray:
    # A null becomes NaN here, which is refused with the rest.
    flat = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    vectors = flat.reshape(int((~is_null).sum()), width)
    if not np.isfinite(vectors).all():
        position = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        row = np.flatnonzero(~is_null)[position]
        value = vectors[position][~np.isfinite(vectors[position])][0]
        raise block.error(
            row, f"the vector holds {value}", "write null where an item has no vector"
        )
    return vectors


def _combined(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
