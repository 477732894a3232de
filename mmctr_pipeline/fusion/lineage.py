"""Whether fused vectors still belong to the text and image vectors that lie beside them."""

from mmctr_pipeline.data.vectors import VectorTable


class StaleVectorsError(ValueError):
    """Fused vectors were made from other text or image vectors than those given."""


def require_fused_from(fused: VectorTable, text: VectorTable, image: VectorTable) -> None:
    """Raise `StaleVectorsError` unless `fused` was made from vectors of exactly this content."""
    for name, table in (("text", text), ("image", image)):
        if fused.provenance.get(f"{name}_content") != table.content_hash():
            raise StaleVectorsError(
                f"fused_pca was made from {name} vectors of "
                f"{fused.provenance.get(f'{name}_identity')!r}, but {name}_embeddings has been "
                f"written anew since (now {table.identity!r}): materialise fused_pca again"
            )
