"""What the UI shows beside an artefact: pictures, column tables, check results."""

import base64
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from mmctr_pipeline.reporting.checks import CheckOutcome

OWNERS = ["team:mmctr"]


def picture(png: bytes, caption: str) -> dg.MarkdownMetadataValue:
    """Return a PNG as metadata that the UI shows in place."""
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


VECTOR_COLUMNS = columns(
    item_id=("int32", "ascending and distinct"),
    vector=("fixed_size_list<float32>", "all zeros where present is false"),
    present=("bool", "whether the item has this vector"),
)


def check_specs(
    asset: str,
    blocking: dict[str, str],
    reporting: dict[str, str] | None = None,
    also_reads: tuple[str, ...] = (),
) -> list[dg.AssetCheckSpec]:
    """Return the specs of an asset's checks, name -> description; blocking ones stop the run."""
    return [
        dg.AssetCheckSpec(
            name,
            asset=asset,
            additional_deps=also_reads,
            blocking=is_blocking,
            description=text,
        )
        for is_blocking, group in ((True, blocking), (False, reporting or {}))
        for name, text in group.items()
    ]


def check_results(asset: str, outcomes: Iterable["CheckOutcome"]) -> Iterator[dg.AssetCheckResult]:
    """Turn the outcomes of the core's checks into Dagster's."""
    for outcome in outcomes:
        severity = dg.AssetCheckSeverity.ERROR if outcome.severe else dg.AssetCheckSeverity.WARN
        yield dg.AssetCheckResult(
            asset_key=asset,
            check_name=outcome.name,
            passed=bool(outcome.passed),
            severity=severity,
            description=outcome.explanation,
            metadata=outcome.numbers,
        )
