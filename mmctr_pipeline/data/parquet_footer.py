"""Read from a parquet footer which columns are encrypted, and the size of each column.

pyarrow ends the process when it is asked for the metadata of an encrypted column, so this reads the
footer itself: a structure in Thrift's compact protocol, as defined in parquet.thrift.
"""

import dataclasses
from pathlib import Path
from typing import Any

# Fields of FileMetaData, RowGroup, ColumnChunk, ColumnMetaData and ColumnCryptoMetaData.
_ROW_GROUPS = 4
_COLUMNS, _N_ROWS = 1, 3
_METADATA, _CRYPTO = 3, 8
_PATH, _N_VALUES, _UNCOMPRESSED_SIZE = 3, 5, 6
_COLUMN_KEY, _KEY_PATH = 2, 1


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
    """Return the row groups of a parquet file with a plain footer.

    Raises `ValueError` if the footer is malformed.
    """
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        content = file.read(length)
    try:
        groups = _Compact(content).struct()[_ROW_GROUPS]
        return [RowGroup(each[_N_ROWS], list(map(_chunk, each[_COLUMNS]))) for each in groups]
    except (LookupError, TypeError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the footer is malformed ({error!r})") from error


def _chunk(chunk: dict[int, Any]) -> ColumnChunk:
    metadata, crypto = chunk.get(_METADATA, {}), chunk.get(_CRYPTO)
    # Without the column's key, its metadata may be absent.
    path = metadata[_PATH] if metadata else crypto[_COLUMN_KEY][_KEY_PATH] if crypto else [b""]
    return ColumnChunk(
        name=path[0].decode(),
        n_values=metadata.get(_N_VALUES, 0),
        n_bytes=metadata.get(_UNCOMPRESSED_SIZE, 0),
        is_encrypted=crypto is not None,
    )


class _Compact:
    """A reader of Thrift's compact protocol; structures become dictionaries by field number."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            step = header >> 4
            number = number + step if step else self._integer()
            kind = header & 15
            # The type of a field holds the value of a boolean.
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        match kind:
            case 1 | 2 | 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._integer()
            case 7:
                return self._take(8)
            case 8:
                return self._take(self._varint())
            case 9 | 10:
                return self._list()
            case 12:
                return self.struct()
        raise ValueError(f"the footer is malformed (type {kind})")

    def _list(self) -> list[Any]:
        header = self._byte()
        length = header >> 4
        if length == 15:
            length = self._varint()
        return [self._value(header & 15) for _ in range(length)]

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _take(self, length: int) -> bytes:
        if length > len(self._content) - self._at:
            raise IndexError("a string ends beyond the footer")
        self._at += length
        return self._content[self._at - length : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
