"""The identities and contents of the vectors that a model was trained on."""

from mmctr_pipeline.data.vectors import ItemVectors, VectorTable


def content_hashes(vectors: ItemVectors) -> dict[str, str]:
    """Return the content hash of each given table: `fused`, `text`, `image`."""
    return {name: table.content_hash() for name, table in _tables(vectors).items()}


def identities_of(vectors: ItemVectors) -> dict[str, str]:
    """Return the identity of each given table: `fused`, `text`, `image`."""
    return {name: table.identity for name, table in _tables(vectors).items()}


def _tables(vectors: ItemVectors) -> dict[str, VectorTable]:
    tables = {"fused": vectors.fused, "text": vectors.text, "image": vectors.image}
    return {name: table for name, table in tables.items() if table is not None}
