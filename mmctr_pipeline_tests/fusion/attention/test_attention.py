"""The attention fusion learns from histories, and a saved transform loads unchanged."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.attention.fit import fit_attention
from mmctr_pipeline.fusion.attention.transform import AttentionTransform
from mmctr_pipeline.fusion.config import AttentionConfig, FusionConfig
from mmctr_pipeline.fusion.pca import fit_pca
from mmctr_pipeline_tests.fusion.attention.attention_dataset import (
    DATASET,
    IMAGE_DIM,
    N_KINDS,
    NEITHER,
    NO_IMAGE,
    NO_TEXT,
    TEXT_DIM,
    Dataset,
    make_dataset,
    masked,
    matching_neighbours,
)

CPU = torch.device("cpu")
QUICK = FusionConfig(
    method="attention", dim=16, attention=AttentionConfig(max_epochs=2, batch_size=128)
)


def changed(config: FusionConfig, **changes: float) -> FusionConfig:
    return dataclasses.replace(config, attention=dataclasses.replace(config.attention, **changes))


def fitted(config: FusionConfig = QUICK, dataset: Dataset = DATASET) -> AttentionTransform:
    return fit_attention(dataset.text, dataset.image, dataset.histories, config, CPU)


@pytest.fixture(scope="module")
def transform() -> AttentionTransform:
    return fitted()


@pytest.fixture(scope="module")
def fused(transform: AttentionTransform) -> VectorTable:
    return transform.transform(DATASET.text, DATASET.image)


def test_learning_moves_cold_items_next_to_watched_items_of_their_kind() -> None:
    learning = changed(QUICK, max_epochs=8, learning_rate=5e-3)
    learned = fitted(learning)
    # With such a small learning rate the network stays as initialised.
    untrained = fitted(changed(learning, max_epochs=1, learning_rate=1e-12))
    share, before = (
        matching_neighbours(transform.transform(DATASET.text, DATASET.image), DATASET)
        for transform in (learned, untrained)
    )
    by_chance = 1 / N_KINDS**2
    assert before > by_chance
    assert share > before + 0.2
    record = learned.summary()
    history = record["history"]
    best = next(e for e in history["epochs"] if e["epoch"] == history["best_epoch"])["metrics"]
    assert best["co_interaction"] < record["before_training"]["co_interaction"] - 0.1


def test_an_untrained_fusion_is_a_pca_of_standardised_vectors_with_equal_attention() -> None:
    config = changed(QUICK, max_epochs=1, learning_rate=1e-12, held_out_share=1e-9)
    transform = fitted(dataclasses.replace(config, dim=10))
    fused = transform.transform(DATASET.text, DATASET.image)

    def standardised(table: VectorTable) -> VectorTable:
        present = table.vectors[table.present].astype(np.float64)
        vectors = (table.vectors - present.mean(axis=0)) / present.std(axis=0) / table.dim**0.5
        vectors[~table.present] = 0
        return dataclasses.replace(table, vectors=vectors.astype(np.float32))

    text, image = standardised(DATASET.text), standardised(DATASET.image)
    expected = fit_pca(text, image, FusionConfig(dim=10)).transform(text, image)
    # The rotation of the basis keeps distances; the one held-out item changes them slightly.
    sample = np.arange(20, 60)
    got, want = (
        np.linalg.norm(t.vectors[sample, np.newaxis] - t.vectors[sample], axis=2)
        for t in (fused, expected)
    )
    assert np.abs(got - want).mean() < 0.02 * want.mean()
    assert transform.summary()["mean_attention"] == pytest.approx({"text": 0.5, "image": 0.5})


def test_held_out_items_do_not_affect_the_weights() -> None:
    n_items = 20
    small = make_dataset(n_items, n_histories=30)
    config = changed(QUICK, max_epochs=1, held_out_share=0.2)
    reference = fitted(config, small)
    without_effect = 0
    for row in range(n_items):
        vectors = small.text.vectors.copy()
        vectors[row] += 100.0 * small.text.present[row]
        moved = dataclasses.replace(small, text=dataclasses.replace(small.text, vectors=vectors))
        weights = fitted(config, moved).weights
        without_effect += all(
            torch.equal(weights[name], tensor) for name, tensor in reference.weights.items()
        )
    held_out = reference.summary()["n_held_out_items"]
    # Items without a title have nothing to move.
    n_untitled = len(NO_TEXT) + len(NEITHER)
    assert held_out == round(0.2 * (n_items - len(NEITHER)))
    assert held_out <= without_effect <= held_out + n_untitled


def test_equal_seeds_give_equal_bits_and_leave_the_global_random_state_alone(
    transform: AttentionTransform,
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    again = fitted()
    assert torch.equal(torch.rand(1), expected)
    assert again.identity == transform.identity
    assert json.dumps(again.summary()) == json.dumps(transform.summary())
    vectors = [t.transform(DATASET.text, DATASET.image).vectors for t in (transform, again)]
    np.testing.assert_array_equal(*vectors)
    assert fitted(changed(QUICK, seed=43)).identity != transform.identity


def test_row_zero_and_items_without_title_and_cover_have_no_vector(fused: VectorTable) -> None:
    assert fused.vectors.dtype == np.float32
    assert fused.item_id.tolist() == [0, *DATASET.text.item_id.tolist()]
    zero = [0, *(1 + row for row in NEITHER)]
    assert np.flatnonzero(~fused.present).tolist() == zero
    assert np.flatnonzero(~fused.vectors.any(axis=1)).tolist() == zero
    assert fused.provenance["counts"] == {
        "items": 320,
        "both": 316,
        "text_only": 2,
        "image_only": 1,
        "neither": 1,
    }
    json.dumps(fused.provenance)


def test_a_learned_token_replaces_a_missing_modality(
    transform: AttentionTransform, fused: VectorTable
) -> None:
    missing = transform.weights["missing"]
    assert missing.abs().max(dim=1).values.min() > 0
    # What the table of images holds for an item without an image is ignored.
    vectors = DATASET.image.vectors.copy()
    vectors[NO_IMAGE[0]] = np.nan
    again = transform.transform(DATASET.text, dataclasses.replace(DATASET.image, vectors=vectors))
    np.testing.assert_array_equal(again.vectors, fused.vectors)
    # If the mean of a modality, which is zero after standardisation, replaces the token, exactly
    # the vectors of items without a title or a cover change.
    transform_with_mean = dataclasses.replace(
        transform, weights=transform.weights | {"missing": torch.zeros_like(missing)}
    )
    with_mean = transform_with_mean.transform(DATASET.text, DATASET.image).vectors
    differing = np.flatnonzero((with_mean != fused.vectors).any(axis=1)) - 1
    assert differing.tolist() == sorted((*NO_IMAGE, *NO_TEXT))


@pytest.mark.parametrize("absent", ["image", "text"])
def test_a_modality_that_no_item_has_is_left_out(absent: str) -> None:
    tables = {"text": DATASET.text, "image": DATASET.image}
    tables[absent] = masked(DATASET.text)
    dataset = dataclasses.replace(DATASET, **tables)
    transform = fitted(changed(QUICK, max_epochs=1), dataset)
    summary = transform.summary()
    assert summary[f"{absent}_dim"] == 0
    assert summary["mean_attention"][absent] == 0
    assert sum(summary["mean_attention"].values()) == pytest.approx(1)
    fused = transform.transform(tables["text"], tables["image"])
    present = tables["text"].present | tables["image"].present
    np.testing.assert_array_equal(fused.present[1:], present)


def test_explained_variance_is_measured_on_the_given_items(
    transform: AttentionTransform, fused: VectorTable
) -> None:
    here = fused.provenance["explained_variance"]
    held_out = transform.summary()["held_out_explained_variance"]
    assert 0.5 < held_out < 1
    assert here == pytest.approx(held_out, abs=0.05)
    random = np.random.default_rng(8)
    unrelated = []
    for table in (DATASET.text, DATASET.image):
        vectors = table.vectors.std(axis=0) * random.standard_normal(table.vectors.shape)
        unrelated.append(dataclasses.replace(table, vectors=vectors.astype(np.float32)))
    assert transform.transform(*unrelated).provenance["explained_variance"] < here - 0.2


def test_explained_variance_is_the_share_that_the_decoder_restores(
    transform: AttentionTransform,
) -> None:
    present = DATASET.image.present & (DATASET.image.item_id % 4 == 0)
    image = dataclasses.replace(DATASET.image, present=present)
    fused = transform.transform(DATASET.text, image)
    mean, scale = (transform.weights[name].double().numpy() for name in ("mean", "scale"))
    lost = total = 0.0
    for row in range(len(DATASET.text.item_id)):
        restored = transform.decoder.double().numpy() @ fused.vectors[1 + row].astype(np.float64)
        for table, columns in (
            (DATASET.text, slice(0, TEXT_DIM)),
            (image, slice(TEXT_DIM, TEXT_DIM + IMAGE_DIM)),
        ):
            if table.present[row]:
                item = (table.vectors[row] - mean[columns]) / scale[columns]
                lost += ((restored[columns] - item) ** 2).sum()
                total += (item**2).sum()
    assert fused.provenance["explained_variance"] == pytest.approx(1 - lost / total, rel=1e-5)


def test_without_histories_the_fit_warns_and_learns_from_titles_and_covers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = changed(QUICK, max_epochs=1)
    no_history = dataclasses.replace(DATASET, histories=Ragged.from_lists([[]]))
    transform = fitted(config, no_history)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "no two items with a vector appear together in any history" in warning
    caplog.clear()
    fitted(config)
    assert not any(r.levelno == logging.WARNING for r in caplog.records)
    assert transform.summary()["n_train_pairs_per_epoch"] == 0
    assert np.isfinite(transform.transform(DATASET.text, DATASET.image).vectors).all()


def test_a_saved_transform_loads_unchanged(
    tmp_path: Path, transform: AttentionTransform, fused: VectorTable
) -> None:
    path = tmp_path / "transforms" / "attention.pt"
    transform.save(path)
    loaded = AttentionTransform.load(path)
    assert loaded.identity == transform.identity
    assert loaded.identity.startswith("attention16:")
    assert loaded.summary() == transform.summary()
    again = loaded.transform(DATASET.text, DATASET.image)
    np.testing.assert_array_equal(again.vectors, fused.vectors)
    assert [p.name for p in path.parent.iterdir()] == ["attention.pt"]


def test_a_changed_or_foreign_file_is_refused(
    tmp_path: Path, transform: AttentionTransform
) -> None:
    path = tmp_path / "attention.pt"
    transform.save(path)
    content = torch.load(path, weights_only=True)
    content["weights"]["projection"][0, 0] += 1
    torch.save(content, path)
    with pytest.raises(ValueError, match="but its content is"):
        AttentionTransform.load(path)
    fit_pca(DATASET.text, DATASET.image, FusionConfig(dim=4)).save(path)
    with pytest.raises(ValueError, match="not a transform of method attention"):
        AttentionTransform.load(path)
    transform.save(path)
    content = torch.load(path, weights_only=True)
    content["decoder"][0, 0] += 1
    torch.save(content, path)
    with pytest.raises(ValueError, match="but its content is"):
        AttentionTransform.load(path)
    del content["decoder"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"attention\.pt lacks a part .*decoder.*remove it"):
        AttentionTransform.load(path)


def test_vectors_of_another_encoder_or_of_other_items_are_refused(
    transform: AttentionTransform,
) -> None:
    other = dataclasses.replace(DATASET.image, identity="x")
    with pytest.raises(ValueError, match="fitted on image vectors of 'covers', these are of 'x'"):
        transform.transform(DATASET.text, other)
    fewer = DATASET.image.aligned_to(DATASET.image.item_id[:-2])
    with pytest.raises(ValueError, match="2 only in text"):
        transform.transform(DATASET.text, fewer)
    with pytest.raises(ValueError, match="2 only in text"):
        fitted(dataset=dataclasses.replace(DATASET, image=fewer))
    with pytest.raises(ValueError, match="history has item 5"):
        fitted(dataset=dataclasses.replace(DATASET, histories=Ragged.from_lists([[2, 5]])))


def test_vectors_that_cannot_be_fitted_are_refused() -> None:
    vectors = DATASET.text.vectors.copy()
    vectors[10, 3] = np.inf
    broken = dataclasses.replace(DATASET.text, vectors=vectors)
    item = DATASET.text.item_id[10]
    with pytest.raises(ValueError, match=f"of titles are not finite; .* that of item {item}:"):
        fitted(dataset=dataclasses.replace(DATASET, text=broken))
    nothing = masked(DATASET.text)
    with pytest.raises(ValueError, match="no item has a text or an image vector"):
        fitted(dataset=dataclasses.replace(DATASET, text=nothing, image=nothing))
    two = dataclasses.replace(DATASET.text, present=np.arange(320) < 2)
    with pytest.raises(ValueError, match="2 items have a text or an image vector"):
        fitted(dataset=dataclasses.replace(DATASET, text=two, image=nothing))
