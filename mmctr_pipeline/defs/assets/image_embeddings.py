"""`image_embeddings`: one vector per cover image."""

import dagster as dg

from mmctr_pipeline.data.items import read_items
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.config import AssetConfig
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.reporting import checks


@declare.asset(
    decided_by="mmctr_pipeline.encoders.image.encode",
    deps=["item_feature", "item_images"],
    kinds={"pytorch", "parquet"},
    **declare.VECTOR_ASSET,
)
def image_embeddings(config: AssetConfig, deployment: DeploymentResource) -> dg.Output[VectorTable]:
    """Vectors of the cover images; only covers without a vector in the vector store are encoded."""
    from mmctr_pipeline import pipeline
    from mmctr_pipeline.files.atomic import atomic_write
    from mmctr_pipeline.files.parquet import write_parquet
    from mmctr_pipeline.reporting.plots import norm_histogram

    layout = deployment.layout()
    encoding = pipeline.encode_images(
        layout,
        read_items(layout),
        config.settings("encoder", ImageEncoderConfig),
        deployment.vector_store(),
        deployment.torch_device(),
    )
    problems_path = deployment.storage / "image_problems.parquet"
    with atomic_write(problems_path) as temporary:
        write_parquet(encoding.problems, temporary)
    # The artefact records the limits of its checks, so that later checks use the same limits.
    table = encoding.table.recording(config=config.resolved, dim=encoding.table.dim)
    counts = table.provenance["counts"]
    norms = norm_histogram({"images": table.norms})
    metadata = {
        "images": int(table.present.sum()),
        **{name: value for name, value in counts.items() if name != "reasons"},
        "why images have no vector": dg.MetadataValue.json(counts.get("reasons", {})),
        "outlying vectors": dg.MetadataValue.json(table.provenance.get("outliers", [])),
        "problems": dg.MetadataValue.path(str(problems_path)),
        "encoder": table.identity,
        **declare.vector_metadata(table),
        "norms": declare.picture(norms, "norms of the image vectors"),
    }
    return dg.Output(table, metadata=metadata)


@declare.checks(
    shape="one row per item of item_feature, with the width that the encoder recorded",
    finite_norms="no NaN or infinity; a vector is zero if and only if it is not present",
    norm_outliers="few vectors are far longer or shorter than the others",
    image_coverage="few items lack an image, and few have an unreadable one",
)
def image_embeddings_checks(
    deployment: DeploymentResource, image_embeddings: VectorTable
) -> list[checks.CheckOutcome]:
    """Check shape, values and coverage of the image vectors."""
    item_id = read_items(deployment.layout()).ids
    # Counted from `present`, as given vectors come without a count of missing images.
    n_masked = int((~image_embeddings.present).sum())
    counts = image_embeddings.provenance.get("counts", {})
    n_unreadable, n_outliers = counts.get("unreadable", 0), counts.get("outliers", 0)
    limits = image_embeddings.provenance["config"]["checks"]
    return [
        checks.vectors_shape(image_embeddings, item_id),
        checks.vectors_finite(image_embeddings),
        checks.norm_outliers(image_embeddings, declare.outlier_limit(image_embeddings)),
        checks.image_coverage(
            n_items=len(item_id),
            n_missing=n_masked - n_unreadable - n_outliers,
            n_unreadable=n_unreadable,
            max_missing=limits["max_missing_images"],
            max_unreadable=limits["max_unreadable_images"],
        ),
    ]
