"""`text_embeddings`: one vector per item title."""

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
from mmctr_pipeline.encoders.config import TextEncoderConfig

TextEmbeddingsConfig = asset_config("text_embeddings")


@dg.asset(
    deps=["item_feature"],
    description="Item titles as vectors; only those that the vector store lacks are encoded.",
    group_name="encoding",
    kinds={"huggingface", "parquet"},
    owners=OWNERS,
    op_tags=GPU_TAGS,
    code_version="1",
    io_manager_key="parquet_io",
    metadata=VECTOR_COLUMNS,
)
def text_embeddings(
    context: dg.AssetExecutionContext,
    config: TextEmbeddingsConfig,  # type: ignore[valid-type]
    places: PlacesResource,
) -> VectorTable:
    """Encode every title of the item table."""
    from mmctr_pipeline.data.items import read_given_vectors, read_items
    from mmctr_pipeline.encoders.text.encode import encode_titles
    from mmctr_pipeline.reporting.plots import norm_histogram, title_lengths

    settings = to_settings(config.encoder, TextEncoderConfig)  # type: ignore[attr-defined]
    layout = places.layout(context.log.info)
    given = read_given_vectors(layout, settings.column) if settings.source == "given" else None
    encoding = encode_titles(
        read_items(layout),
        settings,
        places.torch_device(),
        places.vector_store(),
        context.log.info,
        given,
    )
    table = encoding.table.recording(config=resolved(config), dim=encoding.table.dim)
    pictures = {"norms": picture(norm_histogram({"titles": table.norms}), "norms of the vectors")}
    if encoding.n_tokens is not None and encoding.longest is not None:
        lengths = title_lengths(encoding.n_tokens, encoding.longest)
        pictures["title lengths"] = picture(lengths, "tokens by title, in a sample of the titles")
    context.add_output_metadata(
        {
            "dagster/row_count": len(table.item_id),
            "titles": int(table.present.sum()),
            **table.provenance["counts"],
            "dimensions": table.dim,
            "encoder": table.identity,
            "configuration": dg.MetadataValue.json(resolved(config)),
            "provenance": dg.MetadataValue.json(table.provenance),
            **pictures,
        }
    )
    return table


@dg.multi_asset_check(
    name="text_embeddings_checks",
    specs=check_specs(
        "text_embeddings",
        blocking={
            "shape": "one row per item of item_feature, as wide as the encoder wrote them",
            "finite_norms": "no NaN or infinity, no zero vector where a title is, none where not",
        },
    ),
)
def text_embeddings_checks(
    context: dg.AssetCheckExecutionContext, places: PlacesResource, text_embeddings: VectorTable
) -> Iterator[dg.AssetCheckResult]:
    """Check shape and values of the title vectors."""
    from mmctr_pipeline.data.items import read_items
    from mmctr_pipeline.reporting.checks import vectors_finite, vectors_shape

    item_id = read_items(places.layout(context.log.info)).item_id
    yield from check_results(
        "text_embeddings",
        [vectors_shape(text_embeddings, item_id), vectors_finite(text_embeddings)],
    )
