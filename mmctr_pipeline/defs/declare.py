"""Functions that the asset modules share: decorators for assets and checks, and metadata."""

import base64
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import dagster as dg

from mmctr_pipeline.code_version import code_version
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs.config import asset_config, current_deployment
from mmctr_pipeline.defs.executors import gpu_tags
from mmctr_pipeline.defs.presentation import presented_result
from mmctr_pipeline.defs.retries import retrying
from mmctr_pipeline.presets.preset import ChecksConfig
from mmctr_pipeline.reporting.checks import CheckOutcome

FIGURES = "figures"
"""Metadata of a check's result: its figure against its limit, as in "0.7335 < 0.75"."""

OWNERS = ["team:mmctr"]

GROUP = "pipeline"
"""The group of all assets. The UI opens several groups collapsed, and draws them far apart."""

_PIPELINE_MODULE = "mmctr_pipeline.pipeline"


def columns(**descriptions: tuple[str, str]) -> dict[str, Any]:
    """Return the column-schema metadata of a table; each column has a type and a description."""
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=kind, description=text)
            for name, (kind, text) in descriptions.items()
        ]
    )
    return {"dagster/column_schema": schema}


VECTOR_ASSET: dict[str, Any] = {
    "io_manager_key": "parquet_io",
    "metadata": columns(
        item_id=("int64 or string", "the id in item_feature; ascending and distinct"),
        vector=("fixed_size_list<float32>", "zeros if present is false"),
        present=("bool", "whether the item has this vector"),
    ),
}
"""Options of the assets that are vector tables."""

Asset = Callable[..., Any]
Checks = Callable[..., Iterable[CheckOutcome]]


def asset(
    *, decided_by: str, gpu: bool = True, last: bool = False, **options: Any
) -> Callable[[Asset], dg.AssetsDefinition]:
    """Declare a function as an asset; its docstring is the description that the UI shows.

    If the function has a parameter `config`, it receives the asset's own configuration. After a
    transient error of disk, network or database, Dagster calls the function again.

    Parameters
    ----------
    decided_by
        The module that computes the result. The code version covers this module with all that it
        imports, the module of the asset, and `pipeline.py`.
    gpu
        Whether the asset uses a GPU if there is one.
    last
        Whether other steps that could begin go first.
    options
        Further arguments of `dagster.asset`.
    """
    tags = {
        **(gpu_tags(current_deployment().device) if gpu else {}),
        **({"dagster/priority": "-1"} if last else {}),
    }

    def declare(function: Asset) -> dg.AssetsDefinition:
        if "config" in function.__annotations__:
            function.__annotations__["config"] = asset_config(function.__name__)

        @functools.wraps(function)
        def present(*args: Any, **kwargs: Any) -> Any:
            return presented_result(function(*args, **kwargs))

        return dg.asset(
            **{"group_name": GROUP, **options},
            owners=OWNERS,
            op_tags=tags or None,
            code_version=code_version(decided_by, function.__module__, _PIPELINE_MODULE),
        )(retried(present))

    return declare


def retried(function: Asset) -> Asset:
    """Return the function of a step; a transient error makes Dagster try the step again."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with retrying():
            return function(*args, **kwargs)

    return call


def checks(
    *, also_reads: tuple[str, ...] = (), not_blocking: tuple[str, ...] = (), **descriptions: str
) -> Callable[[Checks], dg.AssetChecksDefinition]:
    """Declare a function as the checks of an asset: it is named `<asset>_checks`.

    It returns one outcome per check. If it has a parameter `config`, it receives the checks' own
    configuration.

    Parameters
    ----------
    also_reads
        Other assets that the checks read.
    not_blocking
        Names of the checks that do not stop the run when they fail.
    descriptions
        Name and description of each check.
    """

    def declare(function: Checks) -> dg.AssetChecksDefinition:
        name = function.__name__.removesuffix("_checks")
        if "config" in function.__annotations__:
            function.__annotations__["config"] = asset_config(function.__name__)

        @functools.wraps(function)
        def evaluate(*args: Any, **kwargs: Any) -> Iterator[dg.AssetCheckResult]:
            with retrying():
                outcomes = list(function(*args, **kwargs))
            for outcome in outcomes:
                yield check_result(name, outcome)

        # Dagster finds the return type in the annotations.
        evaluate.__annotations__["return"] = Iterator[dg.AssetCheckResult]
        specs = [
            dg.AssetCheckSpec(
                check,
                asset=name,
                additional_deps=also_reads,
                blocking=check not in not_blocking,
                description=description,
            )
            for check, description in descriptions.items()
        ]
        inputs = {read: dg.AssetKey(read) for read in also_reads}
        return dg.multi_asset_check(name=function.__name__, specs=specs, ins=inputs)(evaluate)

    return declare


def check_result(asset: str, outcome: CheckOutcome) -> dg.AssetCheckResult:
    """Return an outcome as Dagster's result of a check of `asset`."""
    figures = {FIGURES: outcome.figures} if outcome.figures else {}
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=outcome.name,
        passed=bool(outcome.passed),
        severity=dg.AssetCheckSeverity.ERROR if outcome.severe else dg.AssetCheckSeverity.WARN,
        description=outcome.explanation,
        metadata={**outcome.numbers, **figures},
    )


def picture(png: bytes, caption: str) -> dg.MarkdownMetadataValue:
    """Return a PNG as metadata that the UI shows inline."""
    encoded = base64.b64encode(png).decode("ascii")
    return dg.MetadataValue.md(f"![{caption}](data:image/png;base64,{encoded})")


def vector_metadata(table: VectorTable) -> dict[str, Any]:
    """Return the metadata that all vector tables have."""
    encoded = table.provenance.get("counts", {}).get("encoded", 0)
    seconds = table.provenance.get("seconds")
    speed = {"encoded per second": encoded / seconds} if encoded and seconds else {}
    return {
        "dagster/row_count": len(table.item_id),
        "share of items with a vector": float(table.present.mean()),
        **({} if seconds is None else {"seconds": float(seconds)}),
        **speed,
        "dimensions": table.dim,
        "configuration": dg.MetadataValue.json(table.provenance["config"]),
        "provenance": dg.MetadataValue.json(table.provenance),
    }


def outlier_limit(table: VectorTable) -> float:
    """Return the recorded limit of `norm_outliers`, or the default for tables of older versions."""
    limits = table.provenance["config"].get("checks", {})
    return limits.get("max_outlier_vectors", ChecksConfig.max_outlier_vectors)
