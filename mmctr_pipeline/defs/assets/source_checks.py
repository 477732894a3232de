"""The checks before a run: what is bound to fail stops it before anything is encoded or trained.

One step does the preflight, which looks at everything that the run needs, then reads the data once
and reports on each source. If the data are bad, their checks fail on all three sources, so that
neither titles nor covers are encoded while the click logs are being repaired.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.automation import checked_before_changes
from mmctr_pipeline.defs.config import (
    AssetConfig,
    asset_config,
    current_deployment,
    preset_of_run,
)
from mmctr_pipeline.defs.days import data_of_run
from mmctr_pipeline.defs.drift import drift_outcome
from mmctr_pipeline.defs.jobs import SOURCE_NAMES
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.defs.retries import is_transient, retrying
from mmctr_pipeline.defs.run_events import first_sentence, notify_from_step
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.monitoring.config import MonitoringConfig

if TYPE_CHECKING:
    from mmctr_pipeline.preflight.findings import Finding

_PREFLIGHT = dg.AssetCheckKey(dg.AssetKey("item_feature"), "preflight")
_DATA_GATE = "data_gate"
_SPECS = [
    dg.AssetCheckSpec(
        _PREFLIGHT.name,
        asset=_PREFLIGHT.asset_key,  # every other asset depends on it
        blocking=True,
        automation_condition=checked_before_changes(),
        description="the run can succeed: device, encoders and their weights, template, covers, "
        "labels, days, model and storage; `mmctr check` prints the same findings",
    ),
    *(
        dg.AssetCheckSpec(
            _DATA_GATE,
            asset=source,
            blocking=True,
            automation_condition=checked_before_changes(),
            description="the data can be read, and differ little from those of the last accepted "
            "night",
        )
        for source in SOURCE_NAMES
    ),
]


def _check(
    context: dg.AssetCheckExecutionContext, config: AssetConfig, deployment: DeploymentResource
) -> Iterator[dg.AssetCheckResult]:
    """Do the preflight; read the data, and compare them with those of the last accepted night."""
    from mmctr_pipeline.data.build import build_dataset
    from mmctr_pipeline.monitoring.drift import source_of
    from mmctr_pipeline.monitoring.night import Verdict, check_data
    from mmctr_pipeline.monitoring.profile import profile_data

    findings: list[Finding] = []
    if _PREFLIGHT in context.selected_asset_check_keys:
        findings = _preflight(context, config, deployment)
    numbers: dict[str, float] = {}
    with retrying():
        try:
            layout = deployment.layout()
            data = data_of_run(context, layout, config.settings("data", DataConfig))
            profile = profile_data(build_dataset(layout, data), layout)
        except (DataError, DataNotFoundError) as error:
            if is_transient(error):
                raise
            verdict = Verdict([], blocked=str(error))
        else:
            numbers = profile.numbers
            limits = config.settings("monitoring", MonitoringConfig)
            verdict = check_data(profile, deployment.storage, limits)
    reasons = [f"{_DATA_GATE}: {verdict.blocked}"] if verdict.blocked else []
    reasons += [f"{_PREFLIGHT.name}: {each}" for each in findings if each.severity == "error"]
    if reasons:
        headline, detail = first_sentence(reasons[0]), "\n".join(reasons)
        notify_from_step(context, deployment.storage, "night_blocked", headline, detail)
    if _PREFLIGHT in context.selected_asset_check_keys:
        yield _preflight_result(findings)
    for key in sorted(context.selected_asset_check_keys - {_PREFLIGHT}):
        source = key.asset_key.to_user_string()
        figures = {name: value for name, value in numbers.items() if source_of(name) == source}
        outcome = drift_outcome(key.name, verdict.about(source), figures)
        yield declare.check_result(source, outcome)


def _preflight(
    context: dg.AssetCheckExecutionContext, config: AssetConfig, deployment: DeploymentResource
) -> "list[Finding]":
    """Check what the assets of the run need."""
    from mmctr_pipeline.preflight.check import preflight

    preset = preset_of_run(context.run.run_config)
    data = config.settings("data", DataConfig)
    with retrying():
        with contextlib.suppress(DataError, DataNotFoundError):  # the preflight finds them too
            data = data_of_run(context, deployment.layout(), data)
        place = Deployment(
            data_dir=Path(deployment.data_dir) if deployment.data_dir else None,
            storage_dir=deployment.storage,
            preset=None,
            executor=current_deployment().executor,
            device=deployment.device,
        )
        assets = set(context.job_def.graph.node_dict)
        findings = preflight(place, dataclasses.replace(preset, data=data), assets)
        for cause in (finding.cause for finding in findings):
            if cause is not None and is_transient(cause):
                raise cause
    return findings


def _preflight_result(findings: "list[Finding]") -> dg.AssetCheckResult:
    severities = {finding.severity for finding in findings}
    told = [str(finding) for finding in findings if finding.severity != "ok"]
    records = [
        dg.TableRecord(
            {"verdict": row.severity, "check": row.check, "where": row.where, "finding": row.text}
        )
        for row in findings
    ]
    is_error = "error" in severities
    return dg.AssetCheckResult(
        asset_key=_PREFLIGHT.asset_key,
        check_name=_PREFLIGHT.name,
        passed=severities == {"ok"},
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description="; ".join(told) or "nothing that would make the run fail",
        metadata={"findings": dg.MetadataValue.table(records)},
    )


_check.__annotations__["config"] = asset_config("source_checks")
source_checks = dg.multi_asset_check(name="source_checks", specs=_SPECS, can_subset=True)(_check)
