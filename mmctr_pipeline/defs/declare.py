"""Decorators that declare the assets and their checks, with what all of them share."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import dagster as dg

from mmctr_pipeline.code_version import code_version
from mmctr_pipeline.defs.config import asset_config
from mmctr_pipeline.defs.executors import GPU_TAGS
from mmctr_pipeline.reporting.checks import CheckOutcome

OWNERS = ["team:mmctr"]


def pipeline_asset(
    *, decided_by: str, gpu: bool = True, **options: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Declare an asset; a parameter `config` receives the asset's own configuration.

    Parameters
    ----------
    decided_by
        The module that decides the result; its source gives the code version.
    gpu
        Whether the asset uses a GPU where there is one.
    options
        Further arguments of `dagster.asset`.
    """

    def declare(function: Callable[..., Any]) -> dg.AssetsDefinition:
        if "config" in function.__annotations__:
            function.__annotations__["config"] = asset_config(function.__name__)
        return dg.asset(
            owners=OWNERS,
            op_tags=GPU_TAGS if gpu else None,
            code_version=code_version(decided_by),
            **options,
        )(function)

    return declare


def asset_checks(
    asset: str,
    *,
    blocking: Mapping[str, str],
    reporting: Mapping[str, str] | None = None,
    also_reads: tuple[str, ...] = (),
) -> Callable[[Callable[..., Iterable[CheckOutcome]]], dg.AssetChecksDefinition]:
    """Declare the checks of an asset; the decorated function returns their outcomes.

    Parameters
    ----------
    asset
        Name of the asset.
    blocking
        Name and description of the checks that stop the run when they fail.
    reporting
        Name and description of those that only report.
    also_reads
        Other assets that the checks read.
    """
    specs = [
        dg.AssetCheckSpec(
            name, asset=asset, additional_deps=also_reads, blocking=stops, description=text
        )
        for stops, group in ((True, blocking), (False, reporting or {}))
        for name, text in group.items()
    ]

    def declare(function: Callable[..., Iterable[CheckOutcome]]) -> dg.AssetChecksDefinition:
        @functools.wraps(function)
        def evaluate(*args: Any, **kwargs: Any) -> Iterator[dg.AssetCheckResult]:
            for outcome in function(*args, **kwargs):
                yield _result(asset, outcome)

        evaluate.__annotations__ = {
            **function.__annotations__,
            "return": Iterator[dg.AssetCheckResult],
        }
        return dg.multi_asset_check(
            name=f"{asset}_checks",
            specs=specs,
            ins={name: dg.AssetKey(name) for name in also_reads},
        )(evaluate)

    return declare


def _result(asset: str, outcome: CheckOutcome) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=outcome.name,
        passed=bool(outcome.passed),
        severity=dg.AssetCheckSeverity.ERROR if outcome.severe else dg.AssetCheckSeverity.WARN,
        description=outcome.explanation,
        metadata=outcome.numbers,
    )
