"""Vectors of implausible norm change nothing for the other items, with any fusion."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.config import AttentionConfig, FusionConfig
from mmctr_pipeline.fusion.fuse import Fusion, fuse, require_fused_from

N_ITEMS, WILD = 300, [17, 203, 204]
METHODS = {
    "pca raw": FusionConfig(dim=8),
    "pca unit": FusionConfig(dim=8, input="unit"),
    "pca_each": FusionConfig(method="pca_each", dim=8, input="standardised", rotate=True),
    "attention": FusionConfig(
        method="attention", dim=8, attention=AttentionConfig(max_epochs=1, batch_size=32)
    ),
}


def table(seed: int, dim: int, norm: float) -> VectorTable:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((N_ITEMS, 6)) @ random.standard_normal((6, dim))
    vectors += 0.3 * random.standard_normal((N_ITEMS, dim))
    vectors *= norm / np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.arange(1, N_ITEMS + 1, dtype=np.int32)
    return VectorTable(ids, vectors.astype(np.float32), np.ones(N_ITEMS, bool), f"encoder{seed}")


TEXT, IMAGE = table(1, 24, norm=1.0), table(2, 32, norm=14.0)


def masked(plausible: VectorTable) -> VectorTable:
    """Return the table without the vectors of the `WILD` items."""
    vectors, present = plausible.vectors.copy(), plausible.present.copy()
    vectors[WILD], present[WILD] = 0, False
    return dataclasses.replace(plausible, vectors=vectors, present=present)


def wild(plausible: VectorTable, factor: float) -> VectorTable:
    vectors = plausible.vectors.copy()
    vectors[WILD] *= np.float32(factor)
    return dataclasses.replace(plausible, vectors=vectors)


def fused(text: VectorTable, image: VectorTable, config: FusionConfig, folder: Path) -> Fusion:
    histories = Ragged.from_lists([[1, 2, 3], [4, 5, 6, 7], [18, 19]])
    return fuse(text, image, lambda: histories, config, torch.device("cpu"), folder, "/data")


@pytest.mark.parametrize("factor", [1e6, 3e37])
@pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)
def test_a_fit_with_implausible_vectors_equals_one_in_which_they_are_missing(
    tmp_path: Path, config: FusionConfig, factor: float
) -> None:
    expected = fused(masked(TEXT), IMAGE, config, tmp_path / "a")
    found = fused(wild(TEXT, factor), IMAGE, config, tmp_path / "b")
    assert found.transform.identity == expected.transform.identity
    assert found.vectors.vectors.tobytes() == expected.vectors.vectors.tobytes()
    assert found.vectors.dim == 8
    assert found.vectors.provenance["outliers"] == {"text": 3, "image": 0}
    share = found.vectors.provenance["explained_variance"]
    assert share == expected.vectors.provenance["explained_variance"]
    # The items keep their other modality.
    assert found.vectors.present[1:].all()
    require_fused_from(found.vectors, wild(TEXT, factor), IMAGE)


@pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)
def test_a_reused_transform_ignores_implausible_vectors_of_a_later_run(
    tmp_path: Path, config: FusionConfig, caplog: pytest.LogCaptureFixture
) -> None:
    before = fused(TEXT, IMAGE, config, tmp_path)
    caplog.set_level(logging.WARNING)
    later = fused(TEXT, wild(IMAGE, 1e6), config, tmp_path)
    assert later.reused
    others = np.setdiff1d(np.arange(N_ITEMS), WILD) + 1
    before_bytes = before.vectors.vectors[others].tobytes()
    assert later.vectors.vectors[others].tobytes() == before_bytes
    assert np.abs(later.vectors.vectors).max() <= 2 * np.abs(before.vectors.vectors).max()
    assert any(line.startswith("3 of 300 vectors of image_embeddings") for line in caplog.messages)


def test_an_item_with_two_implausible_vectors_has_no_fused_vector(tmp_path: Path) -> None:
    result = fused(wild(TEXT, 1e6), wild(IMAGE, 1e-8), METHODS["pca raw"], tmp_path)
    assert (np.flatnonzero(~result.vectors.present[1:])).tolist() == WILD
    assert result.vectors.provenance["counts"]["neither"] == 3
