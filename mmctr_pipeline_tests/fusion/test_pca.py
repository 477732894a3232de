"""The PCA fusion equals a plain float64 SVD, survives saving, and refuses bad vectors."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.pca import PcaTransform, fit_pca

N_ITEMS, TEXT_DIM, IMAGE_DIM = 300, 12, 20


def table(
    seed: int, dim: int, absent: tuple[int, ...] = (), scale: float = 1.0, name: str = "encoder"
) -> VectorTable:
    """Return correlated vectors with a mean far from zero; `absent` holds positions, not ids."""
    random = np.random.default_rng(seed)
    deviation = np.linspace(3.0, 0.2, dim)
    mixing = random.standard_normal((dim, dim))
    vectors = (random.standard_normal((N_ITEMS, dim)) * deviation) @ mixing * scale + 5 * scale
    present = np.ones(N_ITEMS, dtype=bool)
    present[list(absent)] = False
    vectors[~present] = 0
    ids = np.arange(1, 2 * N_ITEMS, 2, dtype=np.int32)
    return VectorTable(ids, vectors.astype(np.float32), present, f"{name}{seed}")


def masked(dim: int = 1) -> VectorTable:
    """Return a table in which no item has a vector."""
    everything = tuple(range(N_ITEMS))
    return dataclasses.replace(table(9, dim, everything), identity="none")


def reference(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plain float64 SVD: projections (up to sign), components and variance ratios."""
    centred = matrix - matrix.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    return centred @ rows[:k].T, rows[:k], (singular**2 / (singular**2).sum())[:k]


def largest_angle_sine(first: np.ndarray, second: np.ndarray) -> float:
    """Sine of the largest principal angle between the row spaces of two orthonormal bases."""
    return float(np.linalg.norm(second - second @ first.T @ first, ord=2))


@pytest.mark.parametrize("kind", ["raw", "unit"])
def test_pca_equals_a_float64_svd(kind: str) -> None:
    text, image = table(1, TEXT_DIM), table(2, IMAGE_DIM, scale=7.0)
    transform = fit_pca(text, image, FusionConfig(dim=10, input=kind))
    parts = [text.vectors.astype(np.float64), image.vectors.astype(np.float64)]
    if kind == "unit":
        parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    projected, components, ratio = reference(np.hstack(parts), 10)
    assert largest_angle_sine(transform.components, components) < 1e-7
    np.testing.assert_allclose(transform.explained_variance_ratio, ratio, rtol=1e-9)
    fused = transform.transform(text, image)
    np.testing.assert_allclose(np.abs(fused.vectors[1:]), np.abs(projected), atol=1e-3, rtol=1e-4)
    assert transform.identity.startswith(f"pca10-{kind}:")


def test_signs_do_not_depend_on_the_order_of_the_items() -> None:
    text, image = table(1, TEXT_DIM), table(2, IMAGE_DIM)
    transform = fit_pca(text, image, FusionConfig(dim=8))
    largest = np.abs(transform.components).argmax(axis=1)
    assert (transform.components[np.arange(8), largest] > 0).all()
    reversed_tables = [
        dataclasses.replace(t, vectors=t.vectors[::-1].copy()) for t in (text, image)
    ]
    again = fit_pca(*reversed_tables, FusionConfig(dim=8))
    np.testing.assert_allclose(again.components, transform.components, atol=1e-9)


def test_row_zero_is_zero_and_ignored() -> None:
    text, image = table(1, TEXT_DIM), table(2, IMAGE_DIM)
    fused = fit_pca(text, image, FusionConfig(dim=8)).transform(text, image)
    assert fused.vectors.dtype == np.float32
    assert fused.item_id.tolist() == [0, *text.item_id.tolist()]
    assert not fused.vectors[0].any()
    assert not fused.present[0]
    assert fused.present[1:].all()
    np.testing.assert_allclose(fused.vectors[1:].mean(axis=0), 0, atol=1e-4)


def test_the_mean_replaces_a_missing_modality_and_items_with_neither_have_no_vector() -> None:
    neither, no_image, no_text = 5, (7, 8, 9), (20,)
    text = table(1, TEXT_DIM, (neither, *no_text))
    image = table(2, IMAGE_DIM, (neither, *no_image))
    transform = fit_pca(text, image, FusionConfig(dim=9))
    assert transform.n_fitted_items == N_ITEMS - 1

    filled_text, filled_image = text.vectors.astype(np.float64), image.vectors.astype(np.float64)
    filled_text[~text.present] = filled_text[text.present].mean(axis=0)
    filled_image[~image.present] = filled_image[image.present].mean(axis=0)
    matrix = np.delete(np.hstack([filled_text, filled_image]), neither, axis=0)
    projected, components, ratio = reference(matrix, 9)
    assert largest_angle_sine(transform.components, components) < 1e-7
    np.testing.assert_allclose(transform.explained_variance_ratio, ratio, rtol=1e-9)

    fused = transform.transform(text, image)
    assert not fused.vectors[1 + neither].any()
    assert np.flatnonzero(~fused.present).tolist() == [0, 1 + neither]
    rest = np.delete(fused.vectors[1:], neither, axis=0)
    np.testing.assert_allclose(np.abs(rest), np.abs(projected), atol=1e-3, rtol=1e-4)
    assert fused.provenance["counts"] == {
        "items": N_ITEMS,
        "both": N_ITEMS - 5,
        "text_only": 3,
        "image_only": 1,
        "neither": 1,
    }


def test_a_modality_that_no_item_has_is_left_out() -> None:
    text = table(1, TEXT_DIM)
    transform = fit_pca(text, masked(), FusionConfig(dim=128))
    assert (transform.text_dim, transform.image_dim) == (TEXT_DIM, 0)
    assert transform.dim == TEXT_DIM
    assert transform.explained_variance_ratio.sum() == pytest.approx(1.0)
    _, components, _ = reference(text.vectors.astype(np.float64), TEXT_DIM)
    assert largest_angle_sine(transform.components, components) < 1e-7
    fused = transform.transform(text, masked())
    assert fused.present[1:].all()
    image_only = fit_pca(masked(), text, FusionConfig(dim=3))
    np.testing.assert_allclose(image_only.components, transform.components[:3], atol=1e-12)


def test_a_fit_has_no_more_components_than_the_data_support() -> None:
    def first(t: VectorTable, n: int) -> VectorTable:
        return VectorTable(t.item_id[:n], t.vectors[:n], t.present[:n], t.identity)

    text, image = table(1, TEXT_DIM), table(2, IMAGE_DIM)
    assert fit_pca(first(text, 6), first(image, 6), FusionConfig()).dim == 5
    assert fit_pca(text, image, FusionConfig()).dim == TEXT_DIM + IMAGE_DIM
    # Constant text columns add nothing to the rank.
    constant = dataclasses.replace(text, vectors=np.full_like(text.vectors, 0.1))
    assert fit_pca(constant, image, FusionConfig()).dim == IMAGE_DIM
    with pytest.raises(ValueError, match="at least two items"):
        fit_pca(first(text, 1), first(image, 1), FusionConfig())
    with pytest.raises(ValueError, match="all 300 vectors are equal"):
        fit_pca(constant, masked(), FusionConfig())
    with pytest.raises(ValueError, match="no item has a text or an image vector"):
        fit_pca(masked(), masked(), FusionConfig())


@pytest.mark.parametrize("dim", [1, 7])
def test_a_saved_transform_loads_unchanged(tmp_path: Path, dim: int) -> None:
    text, image = table(1, TEXT_DIM, (3,)), table(2, IMAGE_DIM)
    transform = fit_pca(text, image, FusionConfig(dim=dim))
    path = tmp_path / "transforms" / "pca.pt"
    transform.save(path)
    loaded = PcaTransform.load(path)
    assert loaded.identity == transform.identity
    first, second = transform.transform(text, image), loaded.transform(text, image)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert first.identity == second.identity == transform.identity
    assert [p.name for p in path.parent.iterdir()] == ["pca.pt"]


def test_a_changed_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pca.pt"
    fit_pca(table(1, TEXT_DIM), table(2, IMAGE_DIM), FusionConfig(dim=7)).save(path)
    content = torch.load(path, weights_only=True)
    content["mean"][0] += 1
    torch.save(content, path)
    with pytest.raises(ValueError, match="but its content is"):
        PcaTransform.load(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a transform of method pca"):
        PcaTransform.load(path)
    del content["components"]
    torch.save({"format": 1, **content}, path)
    with pytest.raises(ValueError, match=r"pca\.pt lacks a part .*components.*remove it"):
        PcaTransform.load(path)


def test_the_identity_depends_on_content_encoders_and_settings() -> None:
    text, image = table(1, TEXT_DIM), table(2, IMAGE_DIM)
    config = FusionConfig(dim=7)
    identity = fit_pca(text, image, config).identity
    assert fit_pca(text, image, config).identity == identity
    assert fit_pca(dataclasses.replace(text, identity="other"), image, config).identity != identity
    assert fit_pca(text, image, FusionConfig(dim=7, input="unit")).identity != identity
    moved = dataclasses.replace(text, vectors=text.vectors + np.float32(1e-3))
    assert fit_pca(moved, image, config).identity != identity


def test_vectors_of_another_encoder_or_of_other_items_are_refused() -> None:
    text, image = table(1, TEXT_DIM), table(2, IMAGE_DIM)
    transform = fit_pca(text, image, FusionConfig(dim=7))
    with pytest.raises(ValueError, match="fitted on image vectors of 'encoder2', these are of 'x'"):
        transform.transform(text, dataclasses.replace(image, identity="x"))
    fewer = image.aligned_to(image.item_id[:-2])
    with pytest.raises(ValueError, match="2 only in text"):
        fit_pca(text, fewer, FusionConfig())
    with pytest.raises(ValueError, match="2 only in text"):
        transform.transform(text, fewer)
    with_padding = [dataclasses.replace(t, item_id=t.item_id - np.int32(1)) for t in (text, image)]
    with pytest.raises(ValueError, match="padding row"):
        fit_pca(*with_padding, FusionConfig())


def test_a_non_finite_vector_is_refused_and_its_item_is_named() -> None:
    text, image = table(1, TEXT_DIM), table(2, IMAGE_DIM)
    text.vectors[10, 3] = np.nan
    with pytest.raises(ValueError, match=f"encoder1 are not finite; .*item {text.item_id[10]}:"):
        fit_pca(text, image, FusionConfig())
