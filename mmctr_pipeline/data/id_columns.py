"""Read columns of user and item ids, integers or strings, and find the table rows of items."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmctr_pipeline.data.ids import IdMap, Ids
from mmctr_pipeline.data.ragged import lists_containing, numpy_view
from mmctr_pipeline.data.validation import (
    Block,
    DataError,
    check_nulls,
    integers,
    is_list,
    is_text,
    list_elements,
)

MAX_ID_BYTES = 256
"""Longest string id, in bytes of UTF-8. In an array, every id takes the space of the longest."""


def read_ids(array: pa.Array, block: Block) -> Ids:
    """Return a column of ids, after checking nulls, ranges, lengths and encoding of the ids."""
    if pa.types.is_integer(array.type):
        return integers(array, block)
    check_nulls(array, block)
    ids = _strings(array)
    lengths = numpy_view(pc.binary_length(ids))
    empty, long = np.flatnonzero(lengths == 0), np.flatnonzero(lengths > MAX_ID_BYTES)
    if len(empty) and block.column.minimum > 0:
        fix = "drop the rows, or give them ids: the empty string is the padding"
        raise block.first_error(empty, len(ids), "the id is an empty string", fix)
    if len(long):
        problem = f"the id has {lengths[long[0]]:,} bytes, more than {MAX_ID_BYTES}"
        raise block.first_error(long, len(ids), problem, "use shorter ids, such as hashes of these")
    _check_characters(ids, block)
    return ids


def to_numpy(ids: Ids) -> np.ndarray:
    """Return ids that `read_ids` returned as `(N,)` int64 or strings."""
    return ids if isinstance(ids, np.ndarray) else np.array(ids.to_pylist(), dtype=str)


def item_rows(array: pa.Array, block: Block, items: IdMap, source: Path) -> np.ndarray:
    """Return the table rows of a column of item ids, `(N,) int32`.

    Raises `DataError` for unknown ids.

    Parameters
    ----------
    array, block
        The column, and its place in the file, for errors.
    items
        The table rows of the known items.
    source
        The file that lists the known items.
    """
    ids = read_ids(array, block)
    rows = items.look_up(ids)
    require_known(rows == 0, ids, np.arange(len(ids) + 1), block, source)
    return rows


def listed_items(
    array: pa.Array, block: Block, items: IdMap, source: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return lists of item ids as values `(T,)` and offsets `(N + 1,)`.

    Integer ids are returned unchanged and unchecked. String ids are returned as table rows; those
    that are not in `items` raise `DataError`. The padding, 0 or an empty string, is returned as 0.

    Parameters
    ----------
    array, block
        The column of lists, and its place in the file, for errors.
    items
        The table rows of the known items.
    source
        The file that lists the known items.
    """
    flat, offsets = list_elements(array, block)
    if pa.types.is_integer(flat.type):
        return numpy_view(flat), offsets
    ids = _strings(flat)
    lengths = pc.binary_length(ids)
    rows, is_id = np.zeros(len(ids), np.int32), numpy_view(lengths) > 0
    # Most values are padding. It is faster to look up only the others.
    rows[is_id] = items.look_up(ids.filter(pc.greater(lengths, 0)))
    require_known(is_id & (rows == 0), ids, offsets, block, source)
    return rows, offsets


def require_known(
    is_unknown: np.ndarray, ids: Ids, offsets: np.ndarray, block: Block, source: Path
) -> None:
    """Raise `DataError` for the first unknown item id.

    Parameters
    ----------
    is_unknown
        Which ids are unknown, `(T,) bool`.
    ids
        T ids; entry i of the block has the ids `ids[offsets[i]:offsets[i + 1]]`.
    offsets
        `(N + 1,)` integers.
    block
        The place of the entries in the file, for errors.
    source
        The file that lists the known ids.
    """
    if not is_unknown.any():
        return
    wrong = np.flatnonzero(is_unknown)
    first = ids[int(wrong[0])]
    fix = f"add the item to {source} (its title may be null), or remove it here"
    if isinstance(ids, np.ndarray):
        item = str(first)
    else:
        item = repr(first.as_py())
        fix += "; for padding, write an empty string"
    raise block.first_error(
        lists_containing(wrong, offsets),
        len(offsets) - 1,
        f"item {item} is not in {source.name}",
        fix,
    )


def require_same_kind(
    path: Path, column: pa.Field, like: pa.DataType | np.dtype, source: str
) -> None:
    """Raise `DataError` unless the ids of two columns are both integers or both strings.

    Parameters
    ----------
    path, column
        The file and its column.
    like
        Type of the other ids.
    source
        File and column of the other ids, for the message.
    """
    kinds = ("integers", "strings")
    own = kinds[holds_text(column.type)]
    other = kinds[like.kind == "U" if isinstance(like, np.dtype) else holds_text(like)]
    if own != other:
        raise DataError(
            path,
            f"the ids are {own}, but those of {source} are {other}",
            f"write both as {own} or both as {other}",
            column.name,
        )


def holds_text(data_type: pa.DataType) -> bool:
    """Return whether a column of this type has strings, or lists of them."""
    has_values = is_list(data_type) or pa.types.is_dictionary(data_type)
    return is_text(data_type.value_type if has_values else data_type)


def _strings(array: pa.Array) -> pa.Array:
    """Return strings of any Arrow type as `large_string`."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.large_string())


def _check_characters(ids: pa.Array, block: Block) -> None:
    """Check that ids are valid UTF-8, which parquet does not check, and hold no NUL.

    NumPy cuts off NULs at the end of a string.
    """
    has_nul = numpy_view(pc.match_substring(ids, "\0").cast(pa.uint8()))
    if has_nul.any():
        fix = "remove the NUL characters from the ids"
        raise block.first_error(np.flatnonzero(has_nul), len(ids), "the id has a NUL", fix)
    try:
        ids.validate(full=True)
    except pa.ArrowInvalid as error:
        for row, text in enumerate(ids.cast(pa.large_binary()).to_pylist()):
            if text.decode(errors="replace").encode() != text:
                problem = f"the id {text!r} is not UTF-8"
                raise block.error(row, problem, "write the ids in UTF-8") from error
        raise
