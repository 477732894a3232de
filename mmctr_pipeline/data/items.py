"""The item table of item_feature, and item vectors that come with the data."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.fingerprint import fingerprint_array
from mmctr_pipeline.data.id_columns import read_ids, require_same_kind, to_numpy
from mmctr_pipeline.data.ids import IdMap, find
from mmctr_pipeline.data.ragged import Ragged, without_zeros
from mmctr_pipeline.data.schemas import (
    ITEM_COLUMNS,
    ITEM_INFO_COLUMNS,
    MAX_TITLE_BYTES,
    VECTOR_FILE_COLUMNS,
    Column,
)
from mmctr_pipeline.data.tables import open_table
from mmctr_pipeline.data.validation import (
    Block,
    DataError,
    check_distinct,
    check_range,
    integers,
    is_list,
    list_values,
)
from mmctr_pipeline.data.vectors import VectorTable


def read_items(layout: DataLayout) -> ItemTable:
    """Read the items of item_feature by ascending id, without the padding zeros of the tags.

    Ids are mapped to table rows (`IdMap.from_ids`). A blank title becomes null. Raises `DataError`
    for invalid contents.
    """
    path = layout.item_feature
    with open_table(path, ITEM_COLUMNS) as file:
        return _items(file.read([column.name for column in ITEM_COLUMNS]), path)


def _items(table: pa.Table, path: Path) -> ItemTable:
    blocks = {column.name: Block(path, column) for column in ITEM_COLUMNS}
    arrays = {name: table.column(name).combine_chunks() for name in blocks}
    numbers = {
        column.name: integers(arrays[column.name], blocks[column.name]).astype(column.dtype)
        for column in ITEM_COLUMNS
        if column.kind == "int"
    }
    ids = _distinct_ids(arrays["item_id"], blocks["item_id"])
    tags = list_values(arrays["item_tags"], blocks["item_tags"])
    check_range(*tags, blocks["item_tags"])
    order = np.argsort(ids)
    items = IdMap.from_ids(ids[order])
    return ItemTable(
        ids=items.ids,
        item_id=items.rows,
        title=_titles(arrays["item_title"], blocks["item_title"], order),
        tags=without_zeros(*tags).take(order),
        **{name: values[order] for name, values in numbers.items()},
    )


def _distinct_ids(array: pa.Array, block: Block) -> np.ndarray:
    """Return a whole column of ids, `(N,)`, after checking that they are distinct."""
    ids = to_numpy(read_ids(array, block))
    check_distinct(ids, block)
    return ids


def _titles(titles: pa.Array, block: Block, order: np.ndarray) -> pa.Array:
    """Return the titles as strings in the given order, blank ones as null.

    Parquet does not check that text is UTF-8, and Arrow's own trimming refuses invalid text.
    """
    raw = titles.cast(pa.large_binary()).to_pylist()
    for row, title in enumerate(raw):
        if title is not None and len(title) > MAX_TITLE_BYTES:
            problem = f"the title has {len(title):,} bytes, more than {MAX_TITLE_BYTES:,}"
            fix = "shorten it; encoders read only the first few hundred words"
            raise block.error(row, problem, fix)
    blank = [title is None or not title.decode("utf-8", "replace").strip() for title in raw]
    # A null index gives a null title. The index is built from buffers, as `pa.array` would import
    # pandas, which is slow.
    is_present = np.packbits(~np.array(blank, dtype=bool)[order], bitorder="little")
    buffers = [pa.py_buffer(is_present), pa.py_buffer(order)]
    return titles.cast(pa.string()).take(pa.Array.from_buffers(pa.int64(), len(order), buffers))


def read_given_vectors(layout: DataLayout, column: str) -> VectorTable:
    """Read a vector column of item_feature, or of item_info if item_feature does not have it.

    The padding row (id 0 or an empty string) is dropped. Items whose vector is null or all zeros
    count as items without a vector; the provenance has their number. The table has the ids of its
    file, which may differ from those of the item table: join with `aligned_to`. Raises `DataError`
    if neither file has the column (the message lists the vector columns), if all vectors are zero,
    and for vectors of differing lengths or with values that are not finite.
    """
    path = file_with_vectors(layout, column)
    with open_table(path, VECTOR_FILE_COLUMNS) as file:
        return _vectors(file.read(["item_id", column]), path, column)


def _vectors(table: pa.Table, path: Path, column: str) -> VectorTable:
    id_block = Block(path, VECTOR_FILE_COLUMNS[0])
    ids = _distinct_ids(table.column("item_id").combine_chunks(), id_block)
    vectors, is_null = _checked_vectors(table.column(column), path, column)
    real = np.flatnonzero(ids != np.zeros(1, ids.dtype))
    order = real[np.argsort(ids[real])]
    is_zero = ~is_null & ~vectors.any(axis=1)
    present = ~is_null & ~is_zero
    if not present[order].any():
        raise DataError(
            path,
            "every vector is zero or missing",
            "fill in the column, or choose a preset that encodes titles or images itself",
            column,
        )
    return VectorTable(
        item_id=ids[order],
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


def file_with_vectors(layout: DataLayout, column: str) -> Path:
    """Return item_feature or item_info, whichever has this vector column; raises `DataError`."""
    known: list[str] = []
    types: list[pa.DataType] = []
    for path in filter(None, (layout.item_feature, layout.item_info)):
        with open_table(path, VECTOR_FILE_COLUMNS) as file:
            vector_columns = [
                field.name
                for field in file.schema
                if is_list(field.type) and pa.types.is_floating(field.type.value_type)
            ]
            id_field = file.schema.field("item_id")
        types.append(id_field.type)
        if column in vector_columns:
            require_same_kind(path, id_field, types[0], f"item_id in {layout.item_feature}")
            return path
        none = "none, as only parquet can have them" if path.suffix == ".csv" else "none"
        known += [f"{path.name} has {', '.join(vector_columns) or none}"]
    raise DataError(
        layout.item_feature,
        f"no vector column of this name; {'; '.join(known)}",
        "set the encoder's column to one of these, or let the encoder compute the vectors",
        column,
    )


def read_item_info_tags(path: Path, items: ItemTable) -> tuple[Ragged, np.ndarray] | None:
    """Return the items' tags in item_info, and which items have a row there, `(M,) bool`.

    Returns None if the file has no tags. Items without a row get no tags; the padding row and items
    that item_feature lacks are ignored. Raises `DataError` for invalid contents, and if no item
    has a row.
    """
    with open_table(path, VECTOR_FILE_COLUMNS) as file:
        if "item_tags" not in file.schema.names:
            return None
    blocks = {column.name: Block(path, column) for column in ITEM_INFO_COLUMNS}
    with open_table(path, ITEM_INFO_COLUMNS) as file:
        field = file.schema.field("item_id")
        require_same_kind(path, field, items.ids.dtype, "item_id in item_feature")
        arrays = file.read(list(blocks)).combine_chunks()
    ids = _distinct_ids(arrays.column("item_id").combine_chunks(), blocks["item_id"])
    lists = list_values(arrays.column("item_tags").combine_chunks(), blocks["item_tags"])
    check_range(*lists, blocks["item_tags"])
    order = np.argsort(ids)
    position, found = find(items.ids, ids[order])
    if not found.any():
        raise DataError(
            path,
            f"it has none of the {len(items):,} items of item_feature",
            "copy both files from the same data set, or remove this file",
            "item_id",
        )
    # List 0 is empty, for the items without a row.
    tags = Ragged.concatenate([Ragged.from_lists([[]]), without_zeros(*lists)])
    return tags.take(np.where(found, 1 + order[position], 0)), found


def _checked_vectors(
    column: pa.ChunkedArray, path: Path, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors `(N, D) float32`, zero where null, and which are null, `(N,) bool`."""
    is_null = column.is_null().to_numpy()
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    block = Block(path, Column(name, "int_list", nullable=True))
    rows = np.flatnonzero(~is_null)
    width = int(lengths[rows[0]]) if len(rows) else 0
    other = rows[lengths[rows] != width]
    if len(other):
        raise block.error(
            other[0],
            f"the vector has {lengths[other[0]]} dimensions but the first has {width}",
            "make all vectors the same length; write null for items without a vector",
        )
    vectors = np.zeros((len(column), width), dtype=np.float32)
    # A null value becomes NaN here, which the check below refuses.
    vectors[rows] = pc.list_flatten(column).to_numpy().reshape(len(rows), width)
    is_wrong = ~np.isfinite(vectors)
    if is_wrong.any():
        row = int(np.argmax(is_wrong.any(axis=1)))
        value = vectors[is_wrong][0]
        fix = "write null if the item has no vector"
        raise block.error(row, f"the vector has the value {value}", fix)
    return vectors, is_null
