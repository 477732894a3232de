"""PCA of each modality or of standardised vectors equals an SVD; a rotation keeps distances."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.tensors import load_tensors, save_tensors
from mmctr_pipeline.fusion.components import components_per_modality
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.pca import PcaEachTransform, PcaTransform, fit_pca
from mmctr_pipeline.fusion.transform import Transform
from mmctr_pipeline_tests.fusion.test_pca import (
    IMAGE_DIM,
    N_ITEMS,
    TEXT_DIM,
    largest_angle_sine,
    masked,
    reference,
    table,
)

# The variance of the covers is about 10,000 times that of the titles.
TEXT, IMAGE = table(1, TEXT_DIM), table(2, IMAGE_DIM, scale=50.0)
EACH = FusionConfig(method="pca_each", dim=10)


def explained_variance(
    transform: Transform, text: VectorTable = TEXT, image: VectorTable = IMAGE
) -> dict:
    return transform.transform(text, image).provenance["explained_variance_of"]


def distances(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors[:, np.newaxis] - vectors, axis=2)


def test_each_modality_is_reduced_by_its_own_pca() -> None:
    transform = fit_pca(TEXT, IMAGE, EACH)
    assert transform.identity.startswith("pca_each10-raw:")
    fused = transform.transform(TEXT, IMAGE)
    n_text = int(transform.components[:, :TEXT_DIM].any(axis=1).sum())
    assert not transform.components[n_text:, :TEXT_DIM].any()
    assert not transform.components[:n_text, TEXT_DIM:].any()
    for each, columns, k in ((TEXT, slice(0, n_text), n_text), (IMAGE, slice(n_text, 10), None)):
        vectors = each.vectors.astype(np.float64)
        k = k or 10 - n_text
        projected, _, ratio = reference(vectors, k)
        # Scaled to a total variance of 1.
        projected /= np.sqrt(vectors.var(axis=0, ddof=1).sum())
        found = fused.vectors[1:, columns]
        np.testing.assert_allclose(np.abs(found), np.abs(projected), atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(
            transform.explained_variance_ratio[columns], ratio / 2, rtol=1e-9
        )


def test_a_joint_pca_of_raw_vectors_explains_little_of_the_low_variance_modality() -> None:
    joint = explained_variance(fit_pca(TEXT, IMAGE, FusionConfig(dim=10)))
    separate = explained_variance(fit_pca(TEXT, IMAGE, EACH))
    assert joint["image"] > 0.85
    assert joint["text"] < 0.2
    assert min(separate.values()) > 0.7
    assert abs(separate["text"] - separate["image"]) < 0.1


@pytest.mark.parametrize("method", ["pca", "pca_each"])
@pytest.mark.parametrize("kind", ["raw", "unit", "standardised"])
def test_the_explained_variance_is_the_share_that_the_fused_vectors_restore(
    method: str, kind: str
) -> None:
    text = table(1, TEXT_DIM, (3, 4, 5))
    transform = fit_pca(text, IMAGE, FusionConfig(method=method, dim=6, input=kind))
    fused = transform.transform(text, IMAGE)
    for name, each, own in (
        ("text", text, slice(0, TEXT_DIM)),
        ("image", IMAGE, slice(TEXT_DIM, None)),
    ):
        vectors = each.vectors[each.present].astype(np.float64)
        if kind == "unit":
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors -= vectors.mean(axis=0)
        vectors *= 1 if transform.weight is None else transform.weight[own]
        fused_vectors = fused.vectors[1:][each.present].astype(np.float64)
        error = ((vectors - fused_vectors @ transform.components[:, own]) ** 2).sum()
        share = 1 - error / (vectors**2).sum()
        assert fused.provenance["explained_variance_of"][name] == pytest.approx(share, abs=1e-5)


def test_a_pca_of_standardised_vectors_equals_a_float64_svd() -> None:
    transform = fit_pca(TEXT, IMAGE, FusionConfig(dim=10, input="standardised"))
    parts = [each.vectors.astype(np.float64) for each in (TEXT, IMAGE)]
    parts = [(each - each.mean(0)) / each.std(0) / np.sqrt(each.shape[1]) for each in parts]
    _, components, ratio = reference(np.hstack(parts), 10)
    assert largest_angle_sine(transform.components, components) < 1e-7
    np.testing.assert_allclose(transform.explained_variance_ratio, ratio, rtol=1e-9)


def test_the_modality_with_the_least_explained_variance_gets_the_next_component() -> None:
    steep, flat = np.array([0.7, 0.2, 0.1]), np.full(5, 0.2)
    assert components_per_modality([steep, flat], 1) == [1, 0]
    # `steep` reaches 0.7 with one component, so `flat` gets four, which reach 0.8.
    assert components_per_modality([steep, flat], 5) == [1, 4]
    assert components_per_modality([steep, flat], 6) == [2, 4]
    assert components_per_modality([steep, flat], 100) == [3, 5]
    assert components_per_modality([flat], 4) == [4]


@pytest.mark.parametrize("config", [EACH, FusionConfig(dim=10)], ids=["pca_each", "pca"])
def test_a_rotation_keeps_distances_and_evens_out_the_variances(config: FusionConfig) -> None:
    plain = fit_pca(TEXT, IMAGE, config)
    turned = fit_pca(TEXT, IMAGE, dataclasses.replace(config, rotate=True))
    assert turned.identity != plain.identity
    assert explained_variance(turned) == pytest.approx(explained_variance(plain))
    np.testing.assert_array_equal(turned.explained_variance_ratio, plain.explained_variance_ratio)
    before, after = (t.transform(TEXT, IMAGE).vectors[1:] for t in (plain, turned))
    np.testing.assert_allclose(distances(after), distances(before), rtol=1e-4, atol=1e-4)
    uneven_before, uneven_after = (np.ptp(np.log(v.std(axis=0))) for v in (before, after))
    assert uneven_after < uneven_before / 1.5


def test_an_item_without_a_cover_has_zero_image_components() -> None:
    image = table(2, IMAGE_DIM, tuple(range(100)), scale=50.0)
    transform = fit_pca(TEXT, image, EACH)
    fused = transform.transform(TEXT, image).vectors[1:]
    n_text = int(transform.components[:, :TEXT_DIM].any(axis=1).sum())
    assert not fused[:100, n_text:].any()
    assert fused[100:, n_text:].any(axis=1).all()
    # Items with a cover are scaled as if the items without a cover did not exist.
    own = VectorTable(TEXT.item_id[100:], image.vectors[100:], image.present[100:], image.identity)
    text = VectorTable(TEXT.item_id[100:], TEXT.vectors[100:], TEXT.present[100:], TEXT.identity)
    alone = fit_pca(text, own, EACH).transform(text, own).vectors[1:]
    found, expected = (np.linalg.norm(v[:, -(10 - n_text) :], axis=1) for v in (fused[100:], alone))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["raw", "unit", "standardised"])
def test_titles_alone_get_all_dimensions(kind: str) -> None:
    config = dataclasses.replace(EACH, input=kind)
    transform = fit_pca(TEXT, masked(), config)
    assert (transform.dim, transform.text_dim, transform.image_dim) == (10, TEXT_DIM, 0)
    joint = fit_pca(TEXT, masked(), dataclasses.replace(config, method="pca"))
    np.testing.assert_allclose(transform.components, joint.components, atol=1e-9)
    assert list(explained_variance(transform, image=masked())) == ["text"]


def test_a_fit_has_no_more_components_than_the_data_support() -> None:
    constant = dataclasses.replace(TEXT, vectors=np.full_like(TEXT.vectors, 0.1))
    low_rank = dataclasses.replace(
        IMAGE, vectors=IMAGE.vectors[:, :3] @ np.ones((3, IMAGE_DIM), np.float32).cumsum(axis=1)
    )
    as_many_as_possible = dataclasses.replace(EACH, dim=128)
    assert fit_pca(TEXT, IMAGE, as_many_as_possible).dim == TEXT_DIM + IMAGE_DIM
    assert fit_pca(TEXT, low_rank, as_many_as_possible).dim == TEXT_DIM + 1
    for kind in ("raw", "standardised"):
        config = dataclasses.replace(as_many_as_possible, input=kind, rotate=True)
        transform = fit_pca(constant, IMAGE, config)
        assert transform.dim == IMAGE_DIM
        assert explained_variance(transform, constant) == {"image": pytest.approx(1)}
        # Titles were constant when the transform was fitted, but vary here.
        assert np.isfinite(transform.transform(TEXT, IMAGE).vectors).all()
    with pytest.raises(ValueError, match="all 300 vectors are equal"):
        fit_pca(constant, masked(), as_many_as_possible)
    single = table(2, IMAGE_DIM, tuple(range(1, N_ITEMS)))
    assert fit_pca(TEXT, single, as_many_as_possible).dim == TEXT_DIM
    first = [VectorTable(t.item_id[:1], t.vectors[:1], t.present[:1], "x") for t in (TEXT, IMAGE)]
    with pytest.raises(ValueError, match="at least two items"):
        fit_pca(*first, as_many_as_possible)


@pytest.mark.parametrize("dim", [1, 7])
@pytest.mark.parametrize("method", ["pca", "pca_each"])
def test_a_saved_transform_loads_unchanged_and_only_as_its_own_method(
    tmp_path: Path, method: str, dim: int
) -> None:
    config = FusionConfig(method=method, dim=dim, input="standardised", rotate=True)
    transform = fit_pca(TEXT, IMAGE, config)
    path = tmp_path / "transform.pt"
    transform.save(path)
    loaded = type(transform).load(path)
    assert loaded.identity == transform.identity
    first, second = transform.transform(TEXT, IMAGE), loaded.transform(TEXT, IMAGE)
    assert first.vectors.tobytes() == second.vectors.tobytes()
    other = PcaTransform if method == "pca_each" else PcaEachTransform
    with pytest.raises(ValueError, match="remove it, or run once with fusion"):
        other.load(path)
    content = load_tensors(path)
    save_tensors(path, content | {"weight": content["weight"][:-1]})
    with pytest.raises(ValueError, match=r"weight of shape \(31,\), expected \(32,\)"):
        type(transform).load(path)


def test_a_raw_transform_is_saved_in_the_format_without_weights(tmp_path: Path) -> None:
    transform = fit_pca(TEXT, IMAGE, FusionConfig(dim=7))
    transform.save(tmp_path / "pca.pt")
    assert list(load_tensors(tmp_path / "pca.pt")) == [
        "format",
        "identity",
        "text_dim",
        "image_dim",
        "input",
        "text_identity",
        "image_identity",
        "n_fitted_items",
        "mean",
        "components",
        "explained_variance_ratio",
    ]
