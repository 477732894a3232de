"""`fused_pca`: one fused vector per item, from its title and its cover."""

from collections.abc import Iterator

import dagster as dg

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs.config import asset_config, resolved, to_settings
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
    kinds={"scikitlearn", "parquet"},
    owners=OWNERS,
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
    """Fit the fusion on the real items, keep the fitted transform, and apply it."""
    from mmctr_pipeline.data.items import read_items
    from mmctr_pipeline.evaluation.plots import pca_spectrum
    from mmctr_pipeline.fusion.item_info import write_item_info
    from mmctr_pipeline.fusion.pca import fit_pca

    settings = to_settings(config.fusion, FusionConfig)  # type: ignore[attr-defined]
    transform = fit_pca(text_embeddings, image_embeddings, settings)
    fused = transform.transform(text_embeddings, image_embeddings)
    transform_path = places.storage / "transforms" / f"{transform.identity.replace(':', '-')}.pt"
    transform.save(transform_path)
    item_info_path = places.storage / "item_info_fused_multimodal.parquet"
    layout = places.layout(context.log.info)
    write_item_info(item_info_path, fused, read_items(layout), layout.item_info)

    fused = fused.recording(
        config=resolved(config),
        dim=fused.dim,
        text_content=text_embeddings.content_hash(),
        image_content=image_embeddings.content_hash(),
    )
    context.add_output_metadata(
        {
            "dagster/row_count": len(fused.item_id),
            "items with a vector": int(fused.present.sum()),
            "dimensions": fused.dim,
            "method": settings.method,
            "explained_variance": fused.provenance["explained_variance"],
            "transform": dg.MetadataValue.path(str(transform_path)),
            "item_info": dg.MetadataValue.path(str(item_info_path)),
            "configuration": dg.MetadataValue.json(resolved(config)),
            "provenance": dg.MetadataValue.json(fused.provenance),
            "spectrum": picture(
                pca_spectrum(transform.explained_variance_ratio), "variance by component"
            ),
        }
    )
    return fused


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
    from mmctr_pipeline.evaluation.checks import explained_variance, vectors_finite, vectors_shape

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
