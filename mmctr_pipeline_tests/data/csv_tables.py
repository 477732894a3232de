"""Writes CSV files in FuxiCTR's form."""

from pathlib import Path
from typing import Any


def write_csv(path: Path, columns: dict[str, list[Any]]) -> Path:
    """Write columns as CSV, with lists as `1^2^3` and all texts quoted."""

    def cell(value: Any) -> str:
        if isinstance(value, list):
            return cell("^".join("" if element is None else str(element) for element in value))
        if isinstance(value, str):
            return '"' + value.replace('"', '""') + '"'
        return "" if value is None else str(value)

    lines = [",".join(columns)]
    lines += [",".join(map(cell, row)) for row in zip(*columns.values(), strict=True)]
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path
