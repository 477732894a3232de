"""The check of the sources: bad data stop the night before anything is encoded or trained.

One step reads the data once and reports on each source. If the data are bad, all three checks fail,
so that neither titles nor covers are encoded while the click logs are being repaired.
"""

from collections.abc import Iterator

import dagster as dg

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.automation import checked_before_changes
from mmctr_pipeline.defs.config import AssetConfig, asset_config
from mmctr_pipeline.defs.days import data_of_run
from mmctr_pipeline.defs.drift import drift_outcome
from mmctr_pipeline.defs.jobs import SOURCE_NAMES
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.defs.retries import is_transient, retrying
from mmctr_pipeline.defs.run_events import first_sentence, notify_from_step
from mmctr_pipeline.monitoring.config import MonitoringConfig

_DATA_GATE = "data_gate"
_SPECS = [
    dg.AssetCheckSpec(
        _DATA_GATE,
        asset=source,
        blocking=True,
        automation_condition=checked_before_changes(),
        description="the data can be read, and differ little from those of the last accepted night",
    )
    for source in SOURCE_NAMES
]


def _check(
    context: dg.AssetCheckExecutionContext, config: AssetConfig, deployment: DeploymentResource
) -> Iterator[dg.AssetCheckResult]:
    """Read the data, and compare them with those of the last accepted night."""
    from mmctr_pipeline import pipeline
    from mmctr_pipeline.monitoring.drift import source_of
    from mmctr_pipeline.monitoring.night import Verdict, check_data
    from mmctr_pipeline.monitoring.profile import profile_data

    numbers: dict[str, float] = {}
    with retrying():
        try:
            layout = deployment.layout()
            data = data_of_run(context, layout, config.settings("data", DataConfig))
            profile = profile_data(pipeline.load_dataset(layout, data), layout)
        except (DataError, DataNotFoundError) as error:
            if is_transient(error):
                raise
            verdict = Verdict([], blocked=str(error))
        else:
            numbers = profile.numbers
            limits = config.settings("monitoring", MonitoringConfig)
            verdict = check_data(profile, deployment.storage, limits)
    if verdict.blocked:
        headline = f"{_DATA_GATE}: {first_sentence(verdict.blocked)}"
        notify_from_step(context, deployment.storage, "night_blocked", headline, verdict.blocked)
    for key in sorted(context.selected_asset_check_keys):
        source = key.asset_key.to_user_string()
        figures = {name: value for name, value in numbers.items() if source_of(name) == source}
        outcome = drift_outcome(key.name, verdict.about(source), figures)
        yield declare.check_result(source, outcome)


_check.__annotations__["config"] = asset_config("source_checks")
source_checks = dg.multi_asset_check(name="source_checks", specs=_SPECS, can_subset=True)(_check)
