"""`fused_pca`: one fused vector per item, from its title and its cover."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs.config import asset_config, resolved, to_settings
from mmctr_pipeline.defs.executors import GPU_TAGS
from mmctr_pipeline.defs.metadata import (
    OWNERS,
    VECTOR_COLUMNS,
    check_results,
    check_specs,
    picture,
)
from mmctr_pipeline.defs.resources import PlacesResource
from mmctr_pipeline.fusion.config import FusionConfig

FusedPcaConfig = asset_config("fused_pca")


@dg.asset(
    # Learned fusion reads the train interactions; the edge is there in every preset.
    deps=["interactions"],
    description="Title and image vectors fused into one per item; row 0, the padding, is zero.",
    group_name="encoding",
    kinds={"numpy", "parquet"},
    owners=OWNERS,
    op_tags=GPU_TAGS,
    code_version="1",
    io_manager_key="parquet_io",
    metadata=VECTOR_COLUMNS,
)
def fused_pca(
    context: dg.AssetExecutionContext,
    config: FusedPcaConfig,  # type: ignore[valid-type]
    places: PlacesResource,
    text_embeddings: VectorTable,
    image_embeddings: VectorTable,
) -> VectorTable:
    """Fuse by the transform that was kept for these settings and data, or fit and keep one."""
    from mmctr_pipeline.data.interactions import read_train_histories
    from mmctr_pipeline.data.items import read_items
    from mmctr_pipeline.files.atomic import atomic_write
    from mmctr_pipeline.fusion.fuse import fuse
    from mmctr_pipeline.fusion.item_info import FILE_NAMES, write_item_info
    from mmctr_pipeline.reporting.neighbours import neighbour_sheet

    settings = to_settings(config.fusion, FusionConfig)  # type: ignore[attr-defined]
    layout = places.layout(context.log.info)
    items = read_items(layout)
    fusion = fuse(
        text_embeddings,
        image_embeddings,
        lambda: read_train_histories(layout, items, context.log.info),
        settings,
        places.torch_device(),
        places.storage / "transforms",
        data=str(layout.root.resolve()),
        log=context.log.info,
    )
    fused = fusion.vectors.recording(config=resolved(config), dim=fusion.vectors.dim)
    item_info_path = places.storage / FILE_NAMES[settings.method]
    write_item_info(item_info_path, fused, items, layout.item_info)
    for method, name in FILE_NAMES.items():
        if method != settings.method and (places.storage / name).is_file():
            context.log.info(
                f"{places.storage / name} is of an earlier run, by the method {method}"
            )
    tables = {"image": image_embeddings, "text": text_embeddings, "fused": fused}
    sheet = neighbour_sheet(items, layout.images, tables)
    sheet_path = places.storage / "neighbours.png"
    with atomic_write(sheet_path) as temporary:
        temporary.write_bytes(sheet.full)
    context.add_output_metadata(
        {
            "dagster/row_count": len(fused.item_id),
            "items with a vector": int(fused.present.sum()),
            "dimensions": fused.dim,
            "method": settings.method,
            "explained_variance": fused.provenance["explained_variance"],
            "transform": dg.MetadataValue.path(str(fusion.path)),
            "transform used again": fusion.reused,
            "item_info": dg.MetadataValue.path(str(item_info_path)),
            "neighbours": dg.MetadataValue.path(str(sheet_path)),
            "configuration": dg.MetadataValue.json(resolved(config)),
            "provenance": dg.MetadataValue.json(fused.provenance),
            **_pictures(fused, text_embeddings, image_embeddings, fusion.transform),
            "nearest neighbours": picture(sheet.small, "the nearest by cover, title and both"),
        }
    )
    return fused


def _pictures(
    fused: VectorTable, text: VectorTable, image: VectorTable, transform: Any
) -> dict[str, dg.MarkdownMetadataValue]:
    """Return how it was fitted, by method, and a map of the fused vectors."""
    from mmctr_pipeline.fusion.pca import PcaTransform
    from mmctr_pipeline.reporting.plots import pca_spectrum, training_curve, vector_map

    if isinstance(transform, PcaTransform):
        spectrum = pca_spectrum(transform.explained_variance_ratio)
        fitted = {"spectrum": picture(spectrum, "variance by component")}
    else:
        curve = training_curve(transform.training["history"])
        fitted = {"learning": picture(curve, "loss by epoch")}
    text, image = text.aligned_to(fused.item_id), image.aligned_to(fused.item_id)
    kinds = {
        "title and cover": text.present & image.present,
        "title only": text.present & ~image.present,
        "cover only": ~text.present & image.present,
    }
    drawn = vector_map(fused.vectors, fused.present, kinds)
    return {**fitted, "map": picture(drawn, "fused vectors on their first two components")}


@dg.multi_asset_check(
    name="fused_pca_checks",
    specs=check_specs(
        "fused_pca",
        blocking={
            "shape": "one row per item and the padding row 0, as wide as the fusion wrote them",
            "finite_norms": "no NaN or infinity; exactly the masked rows are zero",
            "explained_variance": "the fused vectors keep enough of the variance",
        },
        also_reads=("text_embeddings",),
    ),
    ins={"text_embeddings": dg.AssetKey("text_embeddings")},
)
def fused_pca_checks(
    context: dg.AssetCheckExecutionContext, fused_pca: VectorTable, text_embeddings: VectorTable
) -> Iterator[dg.AssetCheckResult]:
    """Check shape, values and explained variance of the fused vectors."""
    from mmctr_pipeline.reporting.checks import explained_variance, vectors_finite, vectors_shape

    yield from check_results(
        "fused_pca",
        [
            vectors_shape(fused_pca, text_embeddings.item_id, padding_row=True),
            vectors_finite(fused_pca),
            explained_variance(
                fused_pca.provenance["explained_variance"],
                fused_pca.provenance["config"]["checks"]["min_explained_variance"],
            ),
        ],
    )
