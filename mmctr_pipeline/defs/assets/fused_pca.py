"""`fused_pca`: one fused vector per item, from its title and its cover."""

import logging
from typing import Any

import dagster as dg

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.items import read_items
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.config import AssetConfig
from mmctr_pipeline.defs.days import data_of_run
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.reporting import checks

logger = logging.getLogger(__name__)


@declare.asset(
    decided_by="mmctr_pipeline.fusion.fuse",
    # Only the attention fusion reads the train rows, but each preset has the same asset graph.
    deps=["interactions"],
    kinds={"numpy", "parquet"},
    **declare.VECTOR_ASSET,
)
def fused_pca(
    context: dg.AssetExecutionContext,
    config: AssetConfig,
    deployment: DeploymentResource,
    text_embeddings: VectorTable,
    image_embeddings: VectorTable,
) -> dg.Output[VectorTable]:
    """Title and image vectors fused into one per item; row 0, the padding, is zero."""
    from mmctr_pipeline import pipeline
    from mmctr_pipeline.files.atomic import atomic_write
    from mmctr_pipeline.fusion.item_info import FILE_NAMES, write_item_info
    from mmctr_pipeline.reporting.contact_sheet import neighbour_sheet

    settings = config.settings("fusion", FusionConfig)
    layout = deployment.layout()
    data = data_of_run(context, layout, config.settings("data", DataConfig))
    items = read_items(layout)
    fusion = pipeline.fuse(
        layout,
        items,
        text_embeddings,
        image_embeddings,
        settings,
        deployment.storage / "transforms",
        deployment.torch_device(),
        data,
    )
    resolved = {**config.resolved, "data": data.to_mapping()}
    fused = fusion.vectors.recording(config=resolved, dim=fusion.vectors.dim)
    item_info_path = deployment.storage / FILE_NAMES.get(settings.method, FILE_NAMES["pca"])
    item_info = write_item_info(item_info_path, fused, items, layout.item_info)
    for name in {*FILE_NAMES.values()} - {item_info_path.name}:
        if (deployment.storage / name).is_file():
            logger.info(f"{deployment.storage / name} is left from another fusion method")
    tables = {"cover": image_embeddings, "title": text_embeddings, "both": fused}
    sheet = neighbour_sheet(items, layout.images, tables)
    sheet_path = deployment.storage / "neighbours.png"
    with atomic_write(sheet_path) as temporary:
        temporary.write_bytes(sheet.full)
    metadata = {
        "items with a vector": int(fused.present.sum()),
        "method": settings.method,
        "explained_variance": fused.provenance["explained_variance"],
        "explained variance by modality": dg.MetadataValue.json(
            fused.provenance["explained_variance_of"]
        ),
        "transform": dg.MetadataValue.path(str(fusion.path)),
        "transform used again": fusion.reused,
        "vectors left out as outliers": dg.MetadataValue.json(fused.provenance["outliers"]),
        "item_info": dg.MetadataValue.path(str(item_info_path)),
        "items without a row in the data's item_info": item_info.n_without_source,
        "neighbours": dg.MetadataValue.path(str(sheet_path)),
        **declare.vector_metadata(fused),
        **_pictures(fused, text_embeddings, image_embeddings, fusion.transform),
        "nearest neighbours": declare.picture(sheet.small, "nearest by cover, title, and both"),
    }
    return dg.Output(fused, metadata=metadata)


def _pictures(
    fused: VectorTable, text: VectorTable, image: VectorTable, transform: Any
) -> dict[str, dg.MarkdownMetadataValue]:
    """Return a map of the fused vectors, and a plot of the fit (variances or losses), if any."""
    from mmctr_pipeline.fusion.attention.transform import AttentionTransform
    from mmctr_pipeline.fusion.pca import PcaTransform
    from mmctr_pipeline.reporting.plots import pca_spectrum, training_curve, vector_map

    fitted = {}
    if isinstance(transform, PcaTransform):
        spectrum = pca_spectrum(transform.explained_variance_ratio)
        fitted = {"spectrum": declare.picture(spectrum, "variance by component")}
    elif isinstance(transform, AttentionTransform):
        curve = training_curve(transform.training["history"])
        fitted = {"learning": declare.picture(curve, "loss by epoch")}
    text, image = text.aligned_to(fused.item_id), image.aligned_to(fused.item_id)
    kinds = {
        "title and cover": text.present & image.present,
        "title only": text.present & ~image.present,
        "cover only": ~text.present & image.present,
    }
    drawn = vector_map(fused.vectors, fused.present, kinds)
    return {**fitted, "map": declare.picture(drawn, "fused vectors on their first two components")}


@declare.checks(
    also_reads=("text_embeddings",),
    shape="one row per item and the padding row 0, with the width that the fusion recorded",
    finite_norms="no NaN or infinity; a vector is zero if and only if it is not present",
    explained_variance="enough variance is kept, in similar shares for titles and covers",
)
def fused_pca_checks(
    fused_pca: VectorTable, text_embeddings: VectorTable
) -> list[checks.CheckOutcome]:
    """Check shape, values and explained variance of the fused vectors."""
    return [
        checks.vectors_shape(fused_pca, text_embeddings.item_id, padding_row=True),
        checks.vectors_finite(fused_pca),
        checks.explained_variance(
            fused_pca.provenance["explained_variance"],
            fused_pca.provenance["config"]["checks"]["min_explained_variance"],
            fused_pca.provenance["config"]["fusion"]["method"],
            fused_pca.provenance.get("explained_variance_of"),
        ),
    ]
