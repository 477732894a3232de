"""The sources: item features, cover images and interactions, observed by content hash."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dagster as dg

from mmctr_pipeline.defs.metadata import OWNERS, columns
from mmctr_pipeline.defs.resources import PlacesResource

if TYPE_CHECKING:
    from mmctr_pipeline.data.discovery import DataLayout


def _source(name: str, description: str, **spec: Any) -> Callable[[Callable[..., Any]], Any]:
    """Declare an observable source; Dagster calls the decorator beta at each use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.multi_observable_source_asset(
            name=f"observe_{name}",
            specs=[
                dg.AssetSpec(
                    name, description=description, group_name="sources", owners=OWNERS, **spec
                )
            ],
        )


@_source(
    "item_feature",
    "Titles, tags, likes and views levels of the items (item_feature.parquet).",
    kinds={"parquet"},
    metadata=columns(
        item_id=("int", "from 1, distinct"),
        item_title=("string", "may be empty"),
        item_tags=("list<int>", "tag ids; 0 is padding"),
        likes_level=("int", "0 to 10"),
        views_level=("int", "0 to 10"),
    ),
)
def item_feature(context: dg.OpExecutionContext, places: PlacesResource) -> dg.ObserveResult:
    """Fingerprint the item features, and item_info where there is one."""
    from mmctr_pipeline.data.fingerprint import fingerprint_files

    layout = _layout(context, places)
    files = [path for path in (layout.item_feature, layout.item_info) if path is not None]
    return _observed("item_feature", fingerprint_files(files))


@_source(
    "item_images",
    "Cover images, one file per item; a data set without images observes as such.",
    kinds={"image"},
)
def item_images(context: dg.OpExecutionContext, places: PlacesResource) -> dg.ObserveResult:
    """Fingerprint the names and contents of all cover images."""
    from mmctr_pipeline.data.fingerprint import fingerprint_images

    images = _layout(context, places).images
    if images is None:
        return _observed("item_images", "no images")
    return _observed("item_images", fingerprint_images(images, context.log.info))


@_source(
    "interactions",
    "Click logs: the train, valid and test rows with their histories.",
    kinds={"parquet"},
    metadata=columns(
        user_id=("int", "from 1"),
        item_id=("int", "the target item"),
        item_seq=("list<int>", "the history, oldest first, left-padded with 0"),
        likes_level=("int", "0 to 10"),
        views_level=("int", "0 to 10"),
        label=("int", "1 for a click; in test the column ID stands in its place"),
    ),
)
def interactions(context: dg.OpExecutionContext, places: PlacesResource) -> dg.ObserveResult:
    """Fingerprint the three splits."""
    from mmctr_pipeline.data.fingerprint import fingerprint_files

    layout = _layout(context, places)
    return _observed("interactions", fingerprint_files([layout.train, layout.valid, layout.test]))


def _observed(name: str, fingerprint: str) -> dg.ObserveResult:
    return dg.ObserveResult(asset_key=name, data_version=dg.DataVersion(fingerprint))


def _layout(context: dg.OpExecutionContext, places: PlacesResource) -> "DataLayout":
    layout = places.layout(context.log.info)
    context.log.info(layout.description)
    return layout
