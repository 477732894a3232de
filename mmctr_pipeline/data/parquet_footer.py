"""Read from a parquet footer which columns are encrypted, and the size of each column.

pyarrow crashes when it is asked for the metadata of an encrypted column, so this module decodes the
footer itself: a struct in Thrift's compact protocol, as defined in parquet.thrift.
"""

import dataclasses
import enum
from pathlib import Path
from typing import Any

# Field numbers, a line for each struct: FileMetaData, RowGroup, ColumnChunk, ColumnMetaData, and
# ColumnCryptoMetaData with its EncryptionWithColumnKey.
_ROW_GROUPS = 4
_COLUMNS, _N_ROWS = 1, 3
_METADATA, _CRYPTO = 3, 8
_PATH, _N_VALUES, _UNCOMPRESSED_SIZE = 3, 5, 6
_COLUMN_KEY, _KEY_PATH = 2, 1


class _Kind(enum.IntEnum):
    """Types of Thrift's compact protocol."""

    TRUE = 1
    FALSE = 2
    BYTE = 3
    I16 = 4
    I32 = 5
    I64 = 6
    DOUBLE = 7
    BINARY = 8
    LIST = 9
    SET = 10
    STRUCT = 12


@dataclasses.dataclass(frozen=True)
class ColumnChunk:
    """One column of a row group: its top-level name, what it holds, and whether it is encrypted."""

    name: str
    n_values: int
    n_bytes: int
    is_encrypted: bool


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """A row group and its columns."""

    n_rows: int
    chunks: list[ColumnChunk]


def read_footer(path: Path) -> list[RowGroup]:
    """Return the row groups of a parquet file whose footer is not encrypted.

    Raises `ValueError` if the footer is malformed.
    """
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        content = file.read(length)
    try:
        groups = _CompactReader(content).struct()[_ROW_GROUPS]
        return [RowGroup(group[_N_ROWS], list(map(_chunk, group[_COLUMNS]))) for group in groups]
    except (LookupError, TypeError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the footer is malformed ({error!r})") from error


def _chunk(chunk: dict[int, Any]) -> ColumnChunk:
    metadata, crypto = chunk.get(_METADATA, {}), chunk.get(_CRYPTO)
    # The metadata of an encrypted column may be absent, but not its path.
    path = metadata[_PATH] if metadata else crypto[_COLUMN_KEY][_KEY_PATH] if crypto else [b""]
    return ColumnChunk(
        name=path[0].decode(),
        n_values=metadata.get(_N_VALUES, 0),
        n_bytes=metadata.get(_UNCOMPRESSED_SIZE, 0),
        is_encrypted=crypto is not None,
    )


class _CompactReader:
    """A reader of Thrift's compact protocol; structs become dictionaries by field number."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            step = header >> 4
            number = number + step if step else self._integer()
            kind = header & 15
            if kind in (_Kind.TRUE, _Kind.FALSE):
                fields[number] = kind == _Kind.TRUE
            else:
                fields[number] = self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        match kind:
            case _Kind.TRUE | _Kind.FALSE | _Kind.BYTE:
                return self._byte()
            case _Kind.I16 | _Kind.I32 | _Kind.I64:
                return self._integer()
            case _Kind.DOUBLE:
                return self._take(8)
            case _Kind.BINARY:
                return self._take(self._varint())
            case _Kind.LIST | _Kind.SET:
                return self._list()
            case _Kind.STRUCT:
                return self.struct()
        raise ValueError(f"the footer is malformed (type {kind})")

    def _list(self) -> list[Any]:
        header = self._byte()
        length = header >> 4
        if length == 15:
            length = self._varint()
        return [self._value(header & 15) for _ in range(length)]

    def _byte(self) -> int:
        self._position += 1
        return self._content[self._position - 1]

    def _take(self, length: int) -> bytes:
        if length > len(self._content) - self._position:
            raise IndexError("a string ends beyond the footer")
        self._position += length
        return self._content[self._position - length : self._position]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
