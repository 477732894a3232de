"""`image_embeddings`: one vector per cover image."""

from collections.abc import Iterator

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
from mmctr_pipeline.encoders.config import ImageEncoderConfig

ImageEmbeddingsConfig = asset_config("image_embeddings")


@dg.asset(
    deps=["item_feature", "item_images"],
    description="Cover images as vectors; only those that the vector store lacks are encoded.",
    group_name="encoding",
    kinds={"pytorch", "parquet"},
    owners=OWNERS,
    op_tags=GPU_TAGS,
    code_version="1",
    io_manager_key="parquet_io",
    metadata=VECTOR_COLUMNS,
)
def image_embeddings(
    context: dg.AssetExecutionContext,
    config: ImageEmbeddingsConfig,  # type: ignore[valid-type]
    places: PlacesResource,
) -> VectorTable:
    """Encode the cover of every item; items without a readable one are masked and listed."""
    import pyarrow.parquet as pq

    from mmctr_pipeline.data.items import read_given_vectors, read_items
    from mmctr_pipeline.encoders.image.encode import encode_images
    from mmctr_pipeline.files.atomic import atomic_write
    from mmctr_pipeline.reporting.plots import norm_histogram

    settings = to_settings(config.encoder, ImageEncoderConfig)  # type: ignore[attr-defined]
    layout = places.layout(context.log.info)
    given = read_given_vectors(layout, settings.column) if settings.source == "given" else None
    encoding = encode_images(
        read_items(layout).item_id,
        layout.images,
        settings,
        places.torch_device(),
        places.vector_store(),
        context.log.info,
        given,
    )
    problems_path = places.storage / "image_problems.parquet"
    with atomic_write(problems_path) as temporary:
        pq.write_table(encoding.problems, temporary)
    # The limits travel with the artefact, so that whoever checks it checks what it was made for.
    table = encoding.table.recording(config=resolved(config), dim=encoding.table.dim)
    counts = table.provenance["counts"]
    context.add_output_metadata(
        {
            "dagster/row_count": len(table.item_id),
            "images": int(table.present.sum()),
            **{name: value for name, value in counts.items() if name != "reasons"},
            "why images have no vector": dg.MetadataValue.json(counts.get("reasons", {})),
            "problems": dg.MetadataValue.path(str(problems_path)),
            "dimensions": table.dim,
            "encoder": table.identity,
            "configuration": dg.MetadataValue.json(resolved(config)),
            "provenance": dg.MetadataValue.json(table.provenance),
            "norms": picture(norm_histogram({"images": table.norms}), "norms of the image vectors"),
        }
    )
    return table


@dg.multi_asset_check(
    name="image_embeddings_checks",
    specs=check_specs(
        "image_embeddings",
        blocking={
            "shape": "one row per item of item_feature, as wide as the encoder wrote them",
            "finite_norms": "no NaN or infinity, no zero vector where an image is, none where not",
            "image_coverage": "few items lack an image or have one that cannot be decoded",
        },
    ),
)
def image_embeddings_checks(
    context: dg.AssetCheckExecutionContext, places: PlacesResource, image_embeddings: VectorTable
) -> Iterator[dg.AssetCheckResult]:
    """Check shape, values and coverage of the image vectors."""
    from mmctr_pipeline.data.items import read_items
    from mmctr_pipeline.reporting.checks import image_coverage, vectors_finite, vectors_shape

    item_id = read_items(places.layout(context.log.info)).item_id
    # Where nothing was decoded (given vectors, or none) the mask alone tells what is missing.
    n_masked = int((~image_embeddings.present).sum())
    n_unreadable = image_embeddings.provenance.get("counts", {}).get("unreadable", 0)
    limits = image_embeddings.provenance["config"]["checks"]
    yield from check_results(
        "image_embeddings",
        [
            vectors_shape(image_embeddings, item_id),
            vectors_finite(image_embeddings),
            image_coverage(
                n_items=len(item_id),
                n_missing=n_masked - n_unreadable,
                n_unreadable=n_unreadable,
                max_missing=limits["max_missing_images"],
                max_unreadable=limits["max_unreadable_images"],
            ),
        ],
    )
