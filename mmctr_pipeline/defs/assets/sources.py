"""The sources: item features, cover images and interactions, observed by content hash."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dagster as dg

from mmctr_pipeline.defs.resources import PlacesResource

if TYPE_CHECKING:
    from mmctr_pipeline.data.discovery import DataLayout


def _source(description: str, **arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Declare an observable source; Dagster calls the decorator beta at each use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.observable_source_asset(
            description=description, group_name="sources", **arguments
        )


@_source(
    description="Titles, tags, likes and views levels of the items (item_feature.parquet).",
    tags={"dagster/kind/parquet": ""},
)
def item_feature(context: dg.OpExecutionContext, places: PlacesResource) -> dg.DataVersion:
    """Fingerprint the item features, and item_info where there is one."""
    from mmctr_pipeline.data.fingerprint import fingerprint_files

    layout = _layout(context, places)
    return dg.DataVersion(
        fingerprint_files([p for p in (layout.item_feature, layout.item_info) if p])
    )


@_source(
    description="Cover images, one file per item; a data set without images observes as such.",
)
def item_images(context: dg.OpExecutionContext, places: PlacesResource) -> dg.DataVersion:
    """Fingerprint the names and contents of all cover images."""
    from mmctr_pipeline.data.fingerprint import fingerprint_images

    images = _layout(context, places).images
    return dg.DataVersion(
        fingerprint_images(images, context.log.info) if images is not None else "no images"
    )


@_source(
    description="Click logs: the train, valid and test rows with their histories.",
    tags={"dagster/kind/parquet": ""},
)
def interactions(context: dg.OpExecutionContext, places: PlacesResource) -> dg.DataVersion:
    """Fingerprint the three splits."""
    from mmctr_pipeline.data.fingerprint import fingerprint_files

    layout = _layout(context, places)
    return dg.DataVersion(fingerprint_files([layout.train, layout.valid, layout.test]))


def _layout(context: dg.OpExecutionContext, places: PlacesResource) -> "DataLayout":
    layout = places.layout(context.log.info)
    context.log.info(layout.description)
    return layout
