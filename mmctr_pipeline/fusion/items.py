"""What every fusion asks of its two tables: the same items, the right encoder, finite numbers."""

import numpy as np

from mmctr_pipeline.data.vectors import VectorTable


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
