"""A reference reader: reads a data set row by row in plain Python and lists all of its faults."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mmctr_pipeline.data.schemas import MAX_TAG

Place = tuple[str, str | None, int | None]
"""File name, column and row of a fault.

The row is None if the whole column is faulty. The column is None, too, if the whole file is.
"""

_INTERACTION = {
    "user_id": "id",
    "item_id": "id",
    "item_seq": "id_list",
    "likes_level": "level",
    "views_level": "level",
}
_COLUMNS = {
    "item_feature": {
        "item_id": "id",
        "item_title": "text",
        "item_tags": "tags",
        "likes_level": "level",
        "views_level": "level",
    },
    "train": {**_INTERACTION, "label": "label"},
    "valid": {**_INTERACTION, "label": "label"},
    "test": {**_INTERACTION, "ID": "number"},
}
_ALLOWED_TYPES = {
    "id": ("integer", "string"),
    "id_list": ("integer list", "string list"),
    "tags": ("integer list",),
    "text": ("string",),
    "level": ("integer",),
    "label": ("integer",),
    "number": ("integer",),
}
_LIMITS = {"level": (0, 10), "label": (0, 1), "number": (-(2**63), 2**63 - 1)}
_PADDING = (0, "")


@dataclasses.dataclass
class PlainDataset:
    """Rows by file, each a dictionary of plain values, and all faults.

    If there are no faults, histories and tags have no padding, and blank titles are None.
    """

    rows: dict[str, list[dict[str, Any]]]
    faults: set[Place]


def read_plainly(root: Path) -> PlainDataset:
    """Read the four files of a flat data set."""
    faults: set[Place] = set()
    rows: dict[str, list[dict[str, Any]]] = {}
    id_types: dict[tuple[str, str], str] = {}
    for name, columns in _COLUMNS.items():
        file = f"{name}.parquet"
        table = pq.read_table(root / file)
        if not len(table):
            faults.add((file, None, None))
        for column, kind in columns.items():
            exists = column in table.column_names
            type_name = _type_name(str(table.schema.field(column).type)) if exists else "none"
            if type_name not in _ALLOWED_TYPES[kind]:
                faults.add((file, column, None))
            elif kind in ("id", "id_list"):
                id_types[name, column] = type_name.removesuffix(" list")
        rows[name] = table.to_pylist()
    unreadable = {file.removesuffix(".parquet") for file, _, _ in faults}
    for (name, column), id_type in id_types.items():
        reference = ("train", "user_id") if column == "user_id" else ("item_feature", "item_id")
        if id_types.get(reference, id_type) != id_type:
            faults.add((f"{name}.parquet", column, None))
    items = [row.get("item_id") for row in rows["item_feature"]]
    for name in _COLUMNS.keys() - unreadable:
        faults |= {(f"{name}.parquet", *place) for place in _faults(name, rows[name], set(items))}
    for name in {"train", "valid"} - unreadable:
        if len({row["label"] for row in rows[name]}) == 1:
            faults.add((f"{name}.parquet", "label", None))
    if not faults:
        for row in itertools.chain(*rows.values()):
            _normalise(row)
    return PlainDataset(rows, faults)


def _normalise(row: dict[str, Any]) -> None:
    """Remove padding from the lists of a row, and replace a blank title by None."""
    for column in {"item_seq", "item_tags"} & row.keys():
        row[column] = [value for value in row[column] or [] if value not in _PADDING]
    if not (row.get("item_title") or "").strip():
        row["item_title"] = None


def _type_name(arrow_type: str) -> str:
    """Return `integer list` for `large_list<item: uint8>`, and so on."""
    if arrow_type.startswith(("list", "large_list", "fixed_size_list")):
        return f"{_type_name(arrow_type.partition(': ')[2].partition('>')[0].split()[0])} list"
    if arrow_type.startswith(("int", "uint")):
        return "integer"
    return "string" if arrow_type in ("string", "large_string") else arrow_type


def _faults(name: str, rows: list[dict[str, Any]], items: set[Any]) -> set[tuple[str, int | None]]:
    """Return the column and the row of each fault in the values of a file."""
    faults: set[tuple[str, int | None]] = set()
    seen: dict[str, set[Any]] = {"ID": set(), "item_id": set()}
    is_padded = any(value in _PADDING for row in rows for value in row.get("item_seq") or [])
    for number, row in enumerate(rows):
        for column, kind in _COLUMNS[name].items():
            value = row[column]
            is_target = column == "item_id" and name != "item_feature"
            if _is_wrong(value, kind) or (is_target and value not in items):
                faults.add((column, number))
            elif column == "item_seq":
                width = len(rows[0]["item_seq"] or [])
                if _is_wrong_history(value, items, width if is_padded else None):
                    faults.add((column, number))
            if column == "ID" or (column == "item_id" and name == "item_feature"):
                if value in seen[column]:
                    faults.add((column, number))
                seen[column].add(value)
    return faults


def _is_wrong_history(history: list[Any], items: set[Any], width: int | None) -> bool:
    has_unknown_item = any(item not in items for item in history if item not in _PADDING)
    is_padding = [item in _PADDING for item in history]
    is_left_padded = is_padding == sorted(is_padding, reverse=True)
    return has_unknown_item or not is_left_padded or width not in (None, len(history))


def _is_wrong(value: Any, kind: str) -> bool:
    if kind == "text":
        return False
    if kind == "tags":
        return any(tag is None or not 0 <= tag <= MAX_TAG for tag in value or [])
    if kind == "id_list":
        return value is None or any(item is None or _is_out_of_range(item, 0) for item in value)
    if kind == "id":
        return value is None or value == "" or _is_out_of_range(value, 1)
    least, most = _LIMITS[kind]
    return value is None or not least <= value <= most


def _is_out_of_range(value: int | str, least: int) -> bool:
    return isinstance(value, int) and not least <= value < 2**63
