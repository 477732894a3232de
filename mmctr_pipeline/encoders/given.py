"""Vectors that come with the data: a named column instead of an encoder."""

import dataclasses
import logging

import numpy as np

from mmctr_pipeline.data.vectors import VectorTable

logger = logging.getLogger(__name__)


def take_given(item_id: np.ndarray, given: VectorTable | None, column: str) -> VectorTable:
    """Return the given vectors for `item_id` (`(M,)` ascending), masked where there is none.

    `given` is what `data.items.read_given_vectors` read. Raises `ValueError` where it is None, or
    where not one of the items has a vector.
    """
    if given is None:
        raise ValueError(
            f"source is 'given' but no vectors were read; column {column!r} of item_feature or "
            "item_info must be handed over"
        )
    table = given.aligned_to(np.asarray(item_id))
    n_given = int(table.present.sum())
    if n_given == 0:
        raise ValueError(
            f"column {column!r} holds {len(given.item_id):,} vectors but none for the "
            f"{len(item_id):,} items; compare the item_id columns of item_feature and item_info"
        )
    logger.info(f"{n_given:,} of {len(item_id):,} items have a vector in column {column}")
    counts = {"items": len(item_id), "given": n_given, "missing": len(item_id) - n_given}
    provenance = {**given.provenance, "encoder": "given", "column": column, "counts": counts}
    return dataclasses.replace(table, provenance=provenance)
