"""`text_embeddings`: one vector per item title."""

import dagster as dg

from mmctr_pipeline.data.items import read_items
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.config import AssetConfig
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.encoders.config import TextEncoderConfig
from mmctr_pipeline.reporting import checks


@declare.asset(
    decided_by="mmctr_pipeline.encoders.text.encode",
    deps=["item_feature"],
    kinds={"huggingface", "parquet"},
    **declare.VECTOR_ASSET,
)
def text_embeddings(config: AssetConfig, deployment: DeploymentResource) -> dg.Output[VectorTable]:
    """Vectors of the item titles; only titles without a vector in the vector store are encoded."""
    from mmctr_pipeline import pipeline
    from mmctr_pipeline.reporting.plots import norm_histogram, title_lengths

    layout = deployment.layout()
    encoding = pipeline.encode_titles(
        layout,
        read_items(layout),
        config.settings("encoder", TextEncoderConfig),
        deployment.vector_store(),
        deployment.torch_device(),
    )
    table = encoding.table.recording(config=config.resolved, dim=encoding.table.dim)
    norms = norm_histogram({"titles": table.norms})
    pictures = {"norms": declare.picture(norms, "norms of the vectors")}
    if encoding.n_tokens is not None and encoding.longest is not None:
        lengths = title_lengths(encoding.n_tokens, encoding.longest)
        caption = "tokens per title, in a sample of the titles"
        pictures["title lengths"] = declare.picture(lengths, caption)
    metadata = {
        "titles": int(table.present.sum()),
        **table.provenance["counts"],
        "titles of unknown words": dg.MetadataValue.json(
            table.provenance.get("unknown_titles", [])
        ),
        "outlying vectors": dg.MetadataValue.json(table.provenance["outliers"]),
        "encoder": table.identity,
        **declare.vector_metadata(table),
        **pictures,
    }
    return dg.Output(table, metadata=metadata)


@declare.checks(
    shape="one row per item of item_feature, with the width that the encoder recorded",
    finite_norms="no NaN or infinity; a vector is zero if and only if it is not present",
    norm_outliers="few vectors are far longer or shorter than the others",
)
def text_embeddings_checks(
    deployment: DeploymentResource, text_embeddings: VectorTable
) -> list[checks.CheckOutcome]:
    """Check shape and values of the title vectors."""
    item_id = read_items(deployment.layout()).ids
    return [
        checks.vectors_shape(text_embeddings, item_id),
        checks.vectors_finite(text_embeddings),
        checks.norm_outliers(text_embeddings, declare.outlier_limit(text_embeddings)),
    ]
