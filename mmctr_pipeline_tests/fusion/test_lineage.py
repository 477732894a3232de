"""Fused vectors are refused once the vectors they were made from have been written anew."""

import dataclasses

import numpy as np
import pytest

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.lineage import StaleVectorsError, require_fused_from


def _table(identity: str) -> VectorTable:
    return VectorTable(
        np.array([1, 2], np.int32), np.ones((2, 3), np.float32), np.ones(2, bool), identity
    )


def test_only_the_very_vectors_it_was_made_from_are_accepted() -> None:
    text, image = _table("text encoder"), _table("image encoder")
    fused = _table("pca").recording(
        text_content=text.content_hash(), image_content=image.content_hash()
    )
    require_fused_from(fused, text, image)
    vectors = text.vectors.copy()
    vectors[1, 2] += 1
    # The same encoder, the same items: the content alone tells.
    with pytest.raises(StaleVectorsError, match="text_embeddings has been written anew"):
        require_fused_from(fused, dataclasses.replace(text, vectors=vectors), image)
    with pytest.raises(StaleVectorsError, match="image"):
        require_fused_from(fused, text, dataclasses.replace(image, present=~image.present))
