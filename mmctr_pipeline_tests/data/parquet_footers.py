"""Rewrites the footer of a parquet file, to make files that pyarrow itself would not write.

The footer is encoded in Thrift's compact protocol. A decoded struct is a dictionary from field
number to (type, value), and a decoded list is a pair (type of its elements, elements).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Struct = dict[int, tuple[int, Any]]

# Types of Thrift's compact protocol.
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    12,
)

# Fields of FileMetaData, SchemaElement, RowGroup, ColumnChunk and ColumnMetaData.
SCHEMA, N_ROWS, ROW_GROUPS, KEY_VALUES = 2, 3, 4, 5
REPETITION, NAME = 3, 4
COLUMNS, GROUP_ROWS = 1, 3
FILE_PATH, METADATA = 1, 3
PATH, CODEC, N_VALUES, N_BYTES = 3, 4, 5, 6

# Values of the enumerations FieldRepetitionType and CompressionCodec.
REPEATED, LZO = 2, 3


def edit_footer(path: Path, change: Callable[[Struct], None]) -> None:
    """Apply `change` to the footer of a file, in place."""
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer, _ = _decode(STRUCT, content, len(content) - 8 - length)
    change(footer)
    encoded = _encode(STRUCT, footer)
    end = len(encoded).to_bytes(4, "little") + b"PAR1"
    path.write_bytes(content[: len(content) - 8 - length] + encoded + end)


def claim_lzo(path: Path, column: str) -> None:
    """Declare LZO, which pyarrow does not support, as the codec of a column."""

    def change(footer: Struct) -> None:
        for chunk in chunks(footer, column):
            chunk[CODEC] = (I32, LZO)

    edit_footer(path, change)


def write_without_list_group(path: Path, table: pa.Table, column: str, **options: Any) -> Path:
    """Write a table whose list column is a repeated field without a group, as the format allows.

    First pyarrow writes a required list of required values. Its pages are those of the repeated
    field, so only the footer is changed.
    """
    value_type = table.schema.field(column).type.value_type
    lists = pa.list_(pa.field("element", value_type, nullable=False))
    fields = [
        pa.field(field.name, lists if field.name == column else field.type, nullable=False)
        for field in table.schema
    ]
    pq.write_table(table.cast(pa.schema(fields)), path, store_schema=False, **options)

    def flatten(footer: Struct) -> None:
        elements = footer[SCHEMA][1][1]
        names = [element[NAME][1] for element in elements]
        group = names.index(column.encode())
        leaf = elements[group + 2]
        leaf[REPETITION], leaf[NAME] = (I32, REPEATED), (BINARY, column.encode())
        elements[group : group + 3] = [leaf]
        for chunk in chunks(footer, column):
            chunk[PATH] = (LIST, (BINARY, [column.encode()]))

    edit_footer(path, flatten)
    return path


def chunks(footer: Struct, column: str) -> list[Struct]:
    """Return the metadata of a column in each row group."""
    groups = footer[ROW_GROUPS][1][1]
    metadata = [chunk[METADATA][1] for group in groups for chunk in group[COLUMNS][1][1]]
    return [chunk for chunk in metadata if chunk[PATH][1][1][0] == column.encode()]


def _decode(kind: int, content: bytes, position: int) -> tuple[Any, int]:
    """Return the value at a position, and the position after it."""
    if kind in (TRUE, FALSE, BYTE):
        return content[position], position + 1
    if kind in (I16, I32, I64):
        zigzag, position = _decode_varint(content, position)
        return (zigzag >> 1) ^ -(zigzag & 1), position
    if kind == DOUBLE:
        return content[position : position + 8], position + 8
    if kind == BINARY:
        length, position = _decode_varint(content, position)
        return content[position : position + length], position + length
    if kind in (LIST, SET):
        return _decode_list(content, position)
    assert kind == STRUCT, kind
    return _decode_struct(content, position)


def _decode_list(content: bytes, position: int) -> tuple[tuple[int, list[Any]], int]:
    element_kind, length = content[position] & 15, content[position] >> 4
    position += 1
    if length == 15:  # 15 says that the length is in the next bytes
        length, position = _decode_varint(content, position)
    values = []
    for _ in range(length):
        value, position = _decode(element_kind, content, position)
        values.append(value)
    return (element_kind, values), position


def _decode_struct(content: bytes, position: int) -> tuple[Struct, int]:
    struct: Struct = {}
    number = 0
    while header := content[position]:
        step, kind = header >> 4, header & 15
        position += 1
        if step:
            number += step
        else:
            number, position = _decode(I32, content, position)
        if kind in (TRUE, FALSE):
            struct[number] = (kind, None)
        else:
            value, position = _decode(kind, content, position)
            struct[number] = (kind, value)
    return struct, position + 1


def _encode(kind: int, value: Any) -> bytes:
    if kind in (TRUE, FALSE, BYTE):
        return bytes([value])
    if kind in (I16, I32, I64):
        return _encode_varint(value << 1 if value >= 0 else ~(value << 1))
    if kind == DOUBLE:
        return bytes(value)
    if kind == BINARY:
        return _encode_varint(len(value)) + value
    if kind in (LIST, SET):
        return _encode_list(*value)
    encoded, previous = b"", 0
    for number in sorted(value):
        field_kind, content = value[number]
        encoded += bytes([(number - previous) << 4 | field_kind])
        encoded += b"" if content is None else _encode(field_kind, content)
        previous = number
    return encoded + b"\0"


def _encode_list(element_kind: int, values: list[Any]) -> bytes:
    if len(values) < 15:
        header = bytes([len(values) << 4 | element_kind])
    else:
        header = bytes([15 << 4 | element_kind]) + _encode_varint(len(values))
    # An object that occurs many times is encoded once.
    distinct = {id(value): value for value in values}
    encoded = {key: _encode(element_kind, value) for key, value in distinct.items()}
    return header + b"".join(encoded[id(value)] for value in values)


def _decode_varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while content[position] & 128:
        value |= (content[position] & 127) << shift
        shift, position = shift + 7, position + 1
    return value | content[position] << shift, position + 1


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
