"""The alternative to the nightly schedule: run what depends on data that have changed.

At each MMCTR_CRON, Dagster's declarative automation observes the sources. When that is done and no
other run is active, it checks the sources and materialises, in one run, the assets that depend on a
source with new content. A change of the preset alone starts nothing.
"""

import functools
import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from mmctr_pipeline.defs.active_runs import active_run
from mmctr_pipeline.defs.config import current_deployment, nightly_cron
from mmctr_pipeline.defs.jobs import SOURCE_NAMES, SOURCES
from mmctr_pipeline.defs.schedules import CHANGES_SENSOR


def automated(assets: Iterable[Any]) -> Sequence[dg.AssetsDefinition]:
    """Return assets definitions with the conditions that `changes_sensor` evaluates."""

    def with_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
        is_source = spec.key.to_user_string() in SOURCE_NAMES
        condition = _observed_at_cron() if is_source else _inputs_changed()
        return spec.replace_attributes(automation_condition=condition)

    return dg.map_asset_specs(with_condition, list(assets))


def checked_before_changes() -> dg.AutomationCondition | None:
    """Return the condition of the checks of the sources: they belong to the same run."""
    if current_deployment().nightly == "cron":
        return None
    changed: Any = dg.AutomationCondition.data_version_changed()
    any_changed: Any = functools.reduce(
        operator.or_, (dg.AutomationCondition.asset_matches(name, changed) for name in SOURCE_NAMES)
    )
    return (any_changed.since_last_handled() & StorageIsIdle()).with_label("checked_before_changes")


def changes_sensor() -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that evaluates the conditions of all assets."""
    is_on = current_deployment().nightly == "changes"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.AutomationConditionSensorDefinition(
            CHANGES_SENSOR,
            target=SOURCES | dg.AssetSelection.all(),
            use_user_code_server=True,  # for `StorageIsIdle`
            default_status=dg.DefaultSensorStatus.RUNNING
            if is_on
            else dg.DefaultSensorStatus.STOPPED,
            description="Observes the sources at MMCTR_CRON and materialises what depends on "
            "changed ones. Running by default if MMCTR_NIGHTLY is changes.",
        )


class StorageIsIdle(dg.AutomationCondition):
    """True while no run of the instance, and no other run on the storage folder, is active."""

    @property
    def name(self) -> str:
        """Name in the UI."""
        return "storage_is_idle"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Return all candidates if the storage folder is idle, otherwise none."""
        subset = context.candidate_subset
        if not subset.is_empty:
            storage = current_deployment().storage_dir
            instance = context.asset_graph_view.instance
            if active := active_run(instance, storage, count_observers=True):
                context.log.info(f"waiting for the end of {active}")
                subset = context.get_empty_subset()
        return dg.AutomationResult(context, subset)


def _observed_at_cron() -> dg.AutomationCondition:
    timezone = current_deployment().timezone
    # Typed as Any, as Dagster's types tell conditions on assets from those that fit checks too.
    tick: Any = dg.AutomationCondition.cron_tick_passed(nightly_cron(), timezone)
    return tick.since_last_handled().with_label("observed_at_cron")


def _inputs_changed() -> dg.AutomationCondition:
    has_changed: Any = dg.AutomationCondition.data_version_changed()
    is_requested: Any = dg.AutomationCondition.will_be_requested()
    inputs_changed: Any = dg.AutomationCondition.any_deps_match(has_changed).allow(SOURCES)
    inputs_changed |= dg.AutomationCondition.any_deps_match(is_requested)
    return (
        dg.AutomationCondition.in_latest_time_window()
        & inputs_changed.since_last_handled()
        # Otherwise each source would start a run of its own as soon as it is observed.
        & StorageIsIdle()
    ).with_label("inputs_changed")
