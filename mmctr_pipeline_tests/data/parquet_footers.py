"""Rewrites the footer of a parquet file, to make files that pyarrow itself would not write.

The footer is a structure in Thrift's compact protocol. Here a structure is a dictionary from field
number to (type, value), and a list is (type of its elements, elements).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Struct = dict[int, tuple[int, Any]]

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
REPEATED = 2

# Fields of FileMetaData, SchemaElement, RowGroup, ColumnChunk and ColumnMetaData.
SCHEMA, N_ROWS, ROW_GROUPS, KEY_VALUES = 2, 3, 4, 5
REPETITION, NAME = 3, 4
COLUMNS, GROUP_ROWS = 1, 3
METADATA, PATH, N_VALUES, N_BYTES = 3, 3, 5, 6


def edit_footer(path: Path, change: Callable[[Struct], None]) -> None:
    """Apply `change` to the footer of a file, in place."""
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer, _ = _read(STRUCT, content, len(content) - 8 - length)
    change(footer)
    written = _written(STRUCT, footer)
    end = len(written).to_bytes(4, "little") + b"PAR1"
    path.write_bytes(content[: len(content) - 8 - length] + written + end)


def without_list_group(path: Path, table: pa.Table, column: str, **options: Any) -> Path:
    """Write a table whose list column is a repeated field without a group, as the format allows.

    A required list of required values has the same levels, so that only the schema differs.
    """
    value_type = table.schema.field(column).type.value_type
    lists = pa.list_(pa.field("element", value_type, nullable=False))
    fields = [
        pa.field(each.name, lists if each.name == column else each.type, nullable=False)
        for each in table.schema
    ]
    pq.write_table(table.cast(pa.schema(fields)), path, store_schema=False, **options)

    def flatten(footer: Struct) -> None:
        elements = footer[SCHEMA][1][1]
        at = next(i for i, each in enumerate(elements) if each[NAME][1] == column.encode())
        leaf = elements[at + 2]
        leaf[REPETITION], leaf[NAME] = (I32, REPEATED), (BINARY, column.encode())
        elements[at : at + 3] = [leaf]
        for chunk in chunks(footer, column):
            chunk[PATH] = (LIST, (BINARY, [column.encode()]))

    edit_footer(path, flatten)
    return path


def chunks(footer: Struct, column: str) -> list[Struct]:
    """Return the metadata of a column in each row group."""
    groups = footer[ROW_GROUPS][1][1]
    found = [chunk[METADATA][1] for group in groups for chunk in group[COLUMNS][1][1]]
    return [each for each in found if each[PATH][1][1][0] == column.encode()]


def _read(kind: int, content: bytes, at: int) -> tuple[Any, int]:
    """Return the value at a position, and the position after it."""
    if kind in (1, 2, 3):
        return content[at], at + 1
    if kind in (4, 5, 6):
        value, at = _read_varint(content, at)
        return (value >> 1) ^ -(value & 1), at
    if kind == 7:
        return content[at : at + 8], at + 8
    if kind == BINARY:
        length, at = _read_varint(content, at)
        return content[at : at + length], at + length
    if kind in (LIST, 10):
        element, length, at = content[at] & 15, content[at] >> 4, at + 1
        if length == 15:
            length, at = _read_varint(content, at)
        values = []
        for _ in range(length):
            value, at = _read(element, content, at)
            values.append(value)
        return (element, values), at
    assert kind == STRUCT, kind
    struct: Struct = {}
    number = 0
    while header := content[at]:
        step, field, at = header >> 4, header & 15, at + 1
        if not step:
            value, at = _read(I32, content, at)
            number = value
        number += step
        if field in (1, 2):
            struct[number] = (field, None)
        else:
            value, at = _read(field, content, at)
            struct[number] = (field, value)
    return struct, at + 1


def _written(kind: int, value: Any) -> bytes:
    if kind in (1, 2, 3):
        return bytes([value])
    if kind in (4, 5, 6):
        return _varint(value << 1 if value >= 0 else ~(value << 1))
    if kind == 7:
        return bytes(value)
    if kind == BINARY:
        return _varint(len(value)) + value
    if kind in (LIST, 10):
        element, values = value
        size = bytes([len(values) << 4 | element]) if len(values) < 15 else bytes([240 | element])
        size += _varint(len(values)) if len(values) >= 15 else b""
        # An element that occurs many times is written once and copied.
        known = {id(each): each for each in values}
        content = {key: _written(element, each) for key, each in known.items()}
        return size + b"".join(content[id(each)] for each in values)
    written, last = b"", 0
    for number in sorted(value):
        field, content = value[number]
        written += bytes([(number - last) << 4 | field])
        written += b"" if content is None else _written(field, content)
        last = number
    return written + b"\0"


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while content[at] & 128:
        value |= (content[at] & 127) << shift
        shift, at = shift + 7, at + 1
    return value | content[at] << shift, at + 1


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])
