"""What every fusion asks of its two tables, and the table that every fusion makes of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mmctr_pipeline.data.vectors import VectorTable

_BLOCK_ROWS = 8192


def require_same_items(text: VectorTable, image: VectorTable) -> None:
    """Raise `ValueError` unless both tables are of the same items, none of them the padding."""
    if np.array_equal(text.item_id, image.item_id):
        if len(text.item_id) and text.item_id[0] < 1:
            raise ValueError("item 0 is the padding row; it takes no part in the fusion")
        return
    only_text = np.setdiff1d(text.item_id, image.item_id)
    only_image = np.setdiff1d(image.item_id, text.item_id)
    raise ValueError(
        f"text and image vectors are of different items: {len(only_text):,} only in text "
        f"(as {only_text[:3].tolist()}), {len(only_image):,} only in image "
        f"(as {only_image[:3].tolist()}); materialise the older of the two again"
    )


def require_fitted_on(table: VectorTable, identity: str, name: str) -> None:
    """Raise `ValueError` unless `table` is of the encoder that the transform was fitted on."""
    if table.identity != identity:
        raise ValueError(
            f"the transform was fitted on {name} vectors of {identity!r}, these are of "
            f"{table.identity!r}: fit it again (materialise fused_pca)"
        )


def require_finite(vectors: np.ndarray, item_id: np.ndarray, identity: str) -> None:
    """Raise `ValueError`, naming an item, where a row of `(N, D)` vectors is not finite."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"the vector of item {item_id[np.argmin(finite)]} by {identity} is not finite; "
            f"{int((~finite).sum())} such rows near it: materialise its asset again"
        )


def presence_counts(text: VectorTable, image: VectorTable) -> dict[str, int]:
    """Return how many items there are, with both modalities, with either, with neither."""
    return {
        "items": len(text.item_id),
        "both": int((text.present & image.present).sum()),
        "text_only": int((text.present & ~image.present).sum()),
        "image_only": int((~text.present & image.present).sum()),
        "neither": int((~text.present & ~image.present).sum()),
    }


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield `rows` in blocks that keep the float64 copy of 1,408 columns near 90 MB."""
    return (rows[begin : begin + _BLOCK_ROWS] for begin in range(0, len(rows), _BLOCK_ROWS))


def with_padding_row(
    item_id: np.ndarray,
    rows: np.ndarray,
    vectors: np.ndarray,
    identity: str,
    provenance: dict[str, Any],
) -> VectorTable:
    """Return the fused table: the padding row 0, then the items of `item_id`, `(N,)` ascending.

    `vectors` is `(1 + N, K) float32`, zeros but for `1 + rows`, the items that have one.
    """
    present = np.zeros(len(vectors), dtype=bool)
    present[1 + rows] = True
    padded_id = np.concatenate([[0], item_id]).astype(np.int32)
    return VectorTable(padded_id, vectors, present, identity, provenance)
