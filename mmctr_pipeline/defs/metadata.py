"""Metadata of the artefacts as the UI shows them: pictures, column tables, configurations."""

import base64
from typing import Any

import dagster as dg

from mmctr_pipeline.data.vectors import VectorTable


def picture(png: bytes, caption: str) -> dg.MarkdownMetadataValue:
    """Return a PNG as metadata that the UI shows inline."""
    encoded = base64.b64encode(png).decode("ascii")
    return dg.MetadataValue.md(f"![{caption}](data:image/png;base64,{encoded})")


def columns(**described: tuple[str, str]) -> dict[str, Any]:
    """Return the column-schema metadata of a table: name -> (type, description)."""
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=kind, description=text)
            for name, (kind, text) in described.items()
        ]
    )
    return {"dagster/column_schema": schema}


def vector_metadata(table: VectorTable) -> dict[str, Any]:
    """Return the metadata that all vector tables have."""
    return {
        "dagster/row_count": len(table.item_id),
        "dimensions": table.dim,
        "configuration": dg.MetadataValue.json(table.provenance["config"]),
        "provenance": dg.MetadataValue.json(table.provenance),
    }
