"""Reads a data set row by row in plain Python, and lists all of its faults: a reference."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mmctr_pipeline.data.schemas import MAX_TAG

Place = tuple[str, str | None, int | None]
"""File name, column and row of a fault; column and row are None where it has none."""

_INTERACTION = {"user_id": "id", "item_id": "id", "item_seq": "id_list", "likes_level": "level"}
_INTERACTION["views_level"] = "level"
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
_LIMITS = {"level": (0, 10), "label": (0, 1), "number": (-(2**63), 2**63 - 1)}


@dataclasses.dataclass
class PlainDataset:
    """Rows by file: each a dictionary of plain values; histories and tags without padding."""

    rows: dict[str, list[dict[str, Any]]]
    faults: set[Place]


def read_plainly(root: Path) -> PlainDataset:
    """Read the four files of a flat data set."""
    faults: set[Place] = set()
    rows: dict[str, list[dict[str, Any]]] = {}
    kinds: dict[tuple[str, str], str] = {}
    for name, columns in _COLUMNS.items():
        file = f"{name}.parquet"
        table = pq.read_table(root / file)
        if not len(table):
            faults.add((file, None, None))
        for column, kind in columns.items():
            is_there = column in table.column_names
            found = _kind(str(table.schema.field(column).type)) if is_there else ""
            if found not in _ALLOWED[kind]:
                faults.add((file, column, None))
            else:
                kinds[name, column] = found.removesuffix(" list")
        rows[name] = table.to_pylist()
    unreadable = {file.removesuffix(".parquet") for file, _, _ in faults}
    for (name, column), kind in kinds.items():
        like = ("train", "user_id") if column == "user_id" else ("item_feature", "item_id")
        if column in ("user_id", "item_id", "item_seq") and kinds.get(like, kind) != kind:
            faults.add((f"{name}.parquet", column, None))
    items = [row.get("item_id") for row in rows["item_feature"]]
    for name in _COLUMNS.keys() - unreadable:
        faults |= {(f"{name}.parquet", *place) for place in _faults(name, rows[name], set(items))}
    for name in {"train", "valid"} - unreadable:
        if len({row["label"] for row in rows[name]}) == 1:
            faults.add((f"{name}.parquet", "label", None))
    if not faults:
        for row in (row for each in rows.values() for row in each):
            for column in {"item_seq", "item_tags"} & row.keys():
                row[column] = [value for value in row[column] or [] if value not in (0, "")]
            if not (row.get("item_title") or "").strip():
                row["item_title"] = None
    return PlainDataset(rows, faults)


_ALLOWED = {
    "id": ("integer", "string"),
    "id_list": ("integer list", "string list"),
    "tags": ("integer list",),
    "text": ("string",),
    "level": ("integer",),
    "label": ("integer",),
    "number": ("integer",),
}


def _kind(arrow: str) -> str:
    if arrow.startswith(("list", "large_list", "fixed_size_list")):
        return f"{_kind(arrow.partition(': ')[2].partition('>')[0].split()[0])} list"
    if arrow.startswith(("int", "uint")):
        return "integer"
    return "string" if arrow in ("string", "large_string") else arrow


def _faults(name: str, rows: list[dict[str, Any]], items: set[Any]) -> set[tuple[str, int | None]]:
    """Return column and row of each fault in the values of a file."""
    found: set[tuple[str, int | None]] = set()
    seen: dict[str, set[Any]] = {"ID": set(), "item_id": set()}
    is_padded = any(value in (0, "") for row in rows for value in row.get("item_seq") or [])
    for at, row in enumerate(rows):
        for column, kind in _COLUMNS[name].items():
            value = row[column]
            is_target = column == "item_id" and name != "item_feature"
            if _is_wrong(value, kind) or (is_target and value not in items):
                found.add((column, at))
            elif column == "item_seq":
                unknown = any(each not in items for each in value if each not in (0, ""))
                ids_end = [each in (0, "") for each in value]
                has_gap = sorted(ids_end, reverse=True) != ids_end
                width = len(rows[0]["item_seq"] or [])
                if unknown or has_gap or (is_padded and len(value) != width):
                    found.add((column, at))
            if column == "ID" or (column == "item_id" and name == "item_feature"):
                if value in seen[column]:
                    found.add((column, at))
                seen[column].add(value)
    return found


def _is_wrong(value: Any, kind: str) -> bool:
    if kind == "text":
        return False
    if kind == "tags":
        return any(tag is None or not 0 <= tag <= MAX_TAG for tag in value or [])
    if kind == "id_list":
        return value is None or any(each is None or _is_below(each, 0) for each in value)
    if kind == "id":
        return value is None or value == "" or _is_below(value, 1)
    least, most = _LIMITS[kind]
    return value is None or not least <= value <= most


def _is_below(value: int | str, least: int) -> bool:
    return isinstance(value, int) and not least <= value < 2**63
