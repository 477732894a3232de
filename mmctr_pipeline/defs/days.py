"""Logs by day in Dagster: the day of a run, and the job that runs the pipeline for past days."""

import contextlib
import dataclasses
import datetime
import logging
import zoneinfo
from pathlib import Path
from typing import Any

import dagster as dg

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.days import DayLogs
from mmctr_pipeline.data.discovery import DataLayout, find_interactions
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline.data.window import resolve_day
from mmctr_pipeline.defs import declare, jobs
from mmctr_pipeline.defs.config import ASSET_SECTIONS, current_deployment
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.monitoring.late_day import LateDay, find_late_day
from mmctr_pipeline.monitoring.notify import Event, notifier_from_environment, notify

DAY_TAG = "mmctr/day"
"""Run tag with the day that a run is of."""


def data_of_run(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
    layout: DataLayout,
    data: DataConfig,
) -> DataConfig:
    """Return the data settings of a step with the day of its run, and tag the run with this day.

    The day is that of the settings, else that of the run's tag, else the latest complete day. So
    all steps of a run read the same days, although a day may become complete meanwhile. Data
    without logs by day have no day. Raises the errors of `resolve_day`.
    """
    if layout.interactions is None:
        return resolve_day(layout.root, None, data)
    # The tags as they are now: `context.run` has those from before the step.
    run = context.instance.get_run_by_id(context.run.run_id)
    tagged = run.tags.get(DAY_TAG) if run else None
    data = dataclasses.replace(data, day=data.day or tagged)
    data = resolve_day(layout.root, layout.interactions, data)
    assert data.day is not None
    if data.day != tagged:
        context.instance.add_run_tags(context.run.run_id, {DAY_TAG: data.day})
    return data


def day_tag(data: DataConfig) -> dict[str, str]:
    """Return the tag for a run of this deployment; none for data without logs by day.

    Raises the errors of `resolve_day`.
    """
    root = current_deployment().data_dir
    interactions = find_interactions(root) if root else None
    day = resolve_day(root or Path("the sample dataset"), interactions, data).day
    return {} if day is None else {DAY_TAG: day}


def report_late_day(data: DataConfig, log: logging.Logger) -> LateDay | None:
    """Return the day that a night should be of but cannot be, and send its event.

    `log` gets the event unless a webhook is set. See `find_late_day`.
    """
    deployment = current_deployment()
    if deployment.data_dir is None:
        return None
    today = datetime.datetime.now(zoneinfo.ZoneInfo(deployment.timezone)).date()
    late = find_late_day(deployment.data_dir, deployment.storage_dir, data, today)
    if late:
        storage = str(deployment.storage_dir)
        event = Event("night_skipped", late.reason, day=late.day, storage=storage)
        notify(event, notifier_from_environment(log))
    return late


def data_of(train_dataset: CtrDataset) -> DataConfig:
    """Return the data settings that a dataset was built with; earlier versions recorded none."""
    recorded = train_dataset.provenance.get("config", {}).get("data", {})
    return DataConfig.from_mapping(recorded, "train_dataset", "data")


def _partitions() -> dg.DailyPartitionsDefinition | None:
    """Return a partition for each day from the first day of the data on, up to yesterday."""
    folder = current_deployment().data_dir
    # The UI must load even if the data folder is not as it should be; each run names the fault.
    with contextlib.suppress(DataError, DataNotFoundError, OSError):
        interactions = find_interactions(folder) if folder else None
        if folder and interactions:
            first = DayLogs.at(interactions, folder).days[0]
            return dg.DailyPartitionsDefinition(
                start_date=str(first.date), timezone=current_deployment().timezone
            )
    return None


def day_definitions() -> tuple[list[dg.AssetsDefinition], list[Any]]:
    """Return the asset and the job for past days; there are none without logs by day."""
    partitions = _partitions()
    if partitions is None:
        return [], []
    config = dg.PartitionedConfig(
        partitions,
        run_config_for_partition_key_fn=_run_config,
        tags_for_partition_key_fn=lambda day: {DAY_TAG: day},
    )
    job = dg.define_asset_job(
        "day_pipeline",
        selection=jobs.SOURCES | dg.AssetSelection.all(),
        config=config,
        tags=jobs.STORAGE_TAGS,
        description="Everything, for the days that are chosen as partitions, one after another.",
    )
    return [_day_summary(partitions)], [job]


def _run_config(day: str) -> dict[str, Any]:
    readers = [name for name, sections in ASSET_SECTIONS.items() if "data" in sections]
    return {"ops": {name: {"config": {"data": {"day": day}}} for name in readers}}


def _day_summary(partitions: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    @declare.asset(
        decided_by="mmctr_pipeline.files.records",
        gpu=False,
        group_name=jobs.DAYS_GROUP,
        kinds={"json"},
        partitions_def=partitions,
        deps=["champion", "submission_csv"],
    )
    def day_summary(
        context: dg.AssetExecutionContext,
        deployment: DeploymentResource,
        train_dataset: CtrDataset,
        trained_model: Any,
    ) -> dg.MaterializeResult[None]:
        """Rows, fingerprint and AUC of a day, kept when the next run replaces the artefacts."""
        from mmctr_pipeline.files.records import write_record
        from mmctr_pipeline.registry.champion import Champion
        from mmctr_pipeline.registry.versions import latest_version

        champion = Champion.read(deployment.storage)
        day = train_dataset.day
        metrics = ("valid_auc", "valid_auc_low", "valid_auc_high", "valid_log_loss")
        record = {
            "day": day,
            "run_id": context.run_id,
            "data_fingerprint": train_dataset.fingerprint,
            "first_valid_day": train_dataset.first_valid_day,
            **{f"n_{name}_rows": len(split) for name, split in train_dataset.splits.items()},
            **{name: trained_model.metrics[name] for name in metrics},
            "version": latest_version(deployment.storage),
            "champion": champion.version if champion else "",
        }
        path = deployment.storage / "days" / f"{day}.json"
        write_record(path, record)
        return dg.MaterializeResult(metadata={**record, "path": dg.MetadataValue.path(str(path))})

    return day_summary
