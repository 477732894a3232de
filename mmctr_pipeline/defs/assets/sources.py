"""The sources: item features, cover images and interactions, observed by content hash."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import dagster as dg

from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.fingerprint import fingerprint_files, fingerprint_images
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.data.window import find_splits
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.config import current_deployment, deployment_preset
from mmctr_pipeline.defs.days import DAY_TAG, data_of_run, report_late_day
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.defs.retries import is_transient

Fingerprint = Callable[[DataLayout, dg.AssetExecutionContext], str]


def _source(
    name: str, description: str, fingerprint: Fingerprint, **options: Any
) -> dg.AssetsDefinition:
    """Declare an observable source; `fingerprint` computes its data version from the files."""

    def observe(
        context: dg.AssetExecutionContext, deployment: DeploymentResource
    ) -> dg.ObserveResult:
        layout = deployment.layout()
        version = dg.DataVersion(fingerprint(layout, context))
        return dg.ObserveResult(asset_key=name, data_version=version)

    spec = dg.AssetSpec(
        name, description=description, group_name=declare.GROUP, owners=declare.OWNERS, **options
    )
    with warnings.catch_warnings():
        # Dagster warns at each use that the decorator is in beta.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.multi_observable_source_asset(name=f"observe_{name}", specs=[spec])(
            declare.retried(observe)
        )


item_feature = _source(
    "item_feature",
    "Titles, tags, likes and views levels of the items (item_feature, and item_info if present).",
    lambda layout, _: fingerprint_files(filter(None, [layout.item_feature, layout.item_info])),
    kinds={"parquet"},
    metadata=declare.columns(
        item_id=("int or string", "integers from 1, or strings; distinct"),
        item_title=("string", "may be empty"),
        item_tags=("list<int>", "tag ids; 0 is padding"),
        likes_level=("int", "0 to 10"),
        views_level=("int", "0 to 10"),
    ),
)

item_images = _source(
    "item_images",
    "Cover images, one file per item; a data set may have none.",
    lambda layout, _: fingerprint_images(layout.images) if layout.images else "no images",
    kinds={"image"},
)


def _fingerprint_interactions(layout: DataLayout, context: dg.AssetExecutionContext) -> str:
    """Return the fingerprint of the splits; of logs by day, those of the run's window.

    Data that cannot be read have a fingerprint too: the check of the sources reports them.
    """
    preset = deployment_preset().data
    # A source has no configuration of its own, so the tag of the run decides over the preset.
    day = context.run.tags.get(DAY_TAG, preset.day)
    if current_deployment().nightly == "changes":
        report_late_day(dataclasses.replace(preset, day=day), context.log)
    try:
        data = data_of_run(context, layout, dataclasses.replace(preset, day=day))
        return fingerprint_files(find_splits(layout, data).by_name.values())
    except DataError as error:
        if is_transient(error):
            raise
        context.log.warning(f"these data cannot be used: {error}")
        return f"not usable: {error}"


interactions = _source(
    "interactions",
    "Click logs: the train, valid and test rows with their histories.",
    _fingerprint_interactions,
    kinds={"parquet"},
    metadata=declare.columns(
        user_id=("int or string", "integers from 1, or strings"),
        item_id=("int or string", "the target item"),
        item_seq=("list<int or string>", "the history, oldest first, left-padded with 0 or ''"),
        likes_level=("int", "0 to 10"),
        views_level=("int", "0 to 10"),
        label=("int", "1 for a click; test has the column ID instead"),
    ),
)
