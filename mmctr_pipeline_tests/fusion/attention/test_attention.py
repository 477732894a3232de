"""The attention fusion: it learns from train histories alone, and is the same one afterwards."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.attention.transform import AttentionTransform, fit_attention
from mmctr_pipeline.fusion.config import AttentionConfig, FusionConfig
from mmctr_pipeline.fusion.pca import fit_pca
from mmctr_pipeline_tests.fusion.attention.attention_dataset import (
    IMAGE_DIM,
    N_KINDS,
    NEITHER,
    NO_IMAGE,
    NO_TEXT,
    TEXT_DIM,
    WORLD,
    World,
    masked,
    world,
)

CPU = torch.device("cpu")


QUICK = FusionConfig(
    method="attention", dim=16, attention=AttentionConfig(max_epochs=2, batch_size=128)
)


def changed(config: FusionConfig, **changes: float) -> FusionConfig:
    return dataclasses.replace(config, attention=dataclasses.replace(config.attention, **changes))


def fitted(config: FusionConfig = QUICK, world: World = WORLD) -> AttentionTransform:
    return fit_attention(world.text, world.image, world.histories, config, CPU)


@pytest.fixture(scope="module")
def transform() -> AttentionTransform:
    return fitted()


def neighbours_alike(fused: VectorTable, world: World) -> float:
    """Share of the five nearest watched items that have a cold item's category and style."""
    vectors = fused.vectors[1:] / np.linalg.norm(fused.vectors[1:], axis=1, keepdims=True).clip(
        1e-9
    )
    queries = np.flatnonzero(world.cold & fused.present[1:])
    watched = np.flatnonzero(~world.cold & fused.present[1:])
    nearest = np.argsort(-vectors[queries] @ vectors[watched].T, axis=1)[:, :5]
    return float((world.cell[watched[nearest]] == world.cell[queries, np.newaxis]).mean())


def test_learning_brings_items_that_no_history_holds_to_those_watched_with_their_like() -> None:
    learning = changed(QUICK, max_epochs=15, learning_rate=5e-3)
    learned = fitted(learning)
    # A step this small changes nothing: the same network as it begins.
    untrained = fitted(changed(learning, max_epochs=1, learning_rate=1e-12))
    share = neighbours_alike(learned.transform(WORLD.text, WORLD.image), WORLD)
    before = neighbours_alike(untrained.transform(WORLD.text, WORLD.image), WORLD)
    by_chance = 1 / N_KINDS**2
    assert before > by_chance
    assert share > before + 0.2
    record = learned.summary()
    history = record["history"]
    best = next(e for e in history["epochs"] if e["epoch"] == history["best_epoch"])["metrics"]
    assert best["co_interaction"] < record["before_training"]["co_interaction"] - 0.1


def test_before_training_it_is_a_pca_of_standardised_vectors_with_equal_weights() -> None:
    config = changed(QUICK, max_epochs=1, learning_rate=1e-12, held_out_share=1e-9)
    transform = fitted(dataclasses.replace(config, dim=10))
    fused = transform.transform(WORLD.text, WORLD.image)

    def standardised(table: VectorTable) -> VectorTable:
        present = table.vectors[table.present].astype(np.float64)
        vectors = (table.vectors - present.mean(axis=0)) / present.std(axis=0) / table.dim**0.5
        vectors[~table.present] = 0
        return dataclasses.replace(table, vectors=vectors.astype(np.float32))

    text, image = standardised(WORLD.text), standardised(WORLD.image)
    expected = fit_pca(text, image, FusionConfig(dim=10)).transform(text, image)
    # Distances are the same up to the one item that is held out: the basis alone is turned.
    sample = np.arange(20, 60)
    got, want = (
        np.linalg.norm(t.vectors[sample, np.newaxis] - t.vectors[sample], axis=2)
        for t in (fused, expected)
    )
    assert np.abs(got - want).mean() < 0.02 * want.mean()
    assert transform.summary()["mean_attention"] == pytest.approx({"text": 0.5, "image": 0.5})


def test_held_out_items_take_no_part_in_learning() -> None:
    small = world(n_items=40, n_histories=60)
    config = changed(QUICK, max_epochs=1, held_out_share=0.2)
    reference = fitted(config, small).weights
    without_effect = 0
    for row in range(40):
        vectors = small.text.vectors.copy()
        vectors[row] += 100.0 * small.text.present[row]
        moved = dataclasses.replace(small, text=dataclasses.replace(small.text, vectors=vectors))
        weights = fitted(config, moved).weights
        without_effect += all(torch.equal(weights[name], reference[name]) for name in reference)
    # The items without a title have nothing that could have been moved.
    held_out = fitted(config, small).summary()["n_held_out_items"]
    n_untitled = len(NO_TEXT) + len(NEITHER)
    assert held_out == round(0.2 * (40 - len(NEITHER)))
    assert held_out <= without_effect <= held_out + n_untitled


def test_two_fits_are_bit_equal_and_leave_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = fitted()
    assert torch.equal(torch.rand(1), expected)
    second = fitted()
    assert first.identity == second.identity
    assert json.dumps(first.summary()) == json.dumps(second.summary())
    fused = [t.transform(WORLD.text, WORLD.image).vectors for t in (first, second)]
    np.testing.assert_array_equal(*fused)
    assert fitted(changed(QUICK, seed=43)).identity != first.identity


def test_row_zero_and_items_that_lack_both_are_zero_and_masked(
    transform: AttentionTransform,
) -> None:
    fused = transform.transform(WORLD.text, WORLD.image)
    assert fused.vectors.dtype == np.float32
    assert fused.item_id.tolist() == [0, *WORLD.text.item_id.tolist()]
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


def test_a_learned_token_stands_in_for_a_missing_modality(transform: AttentionTransform) -> None:
    missing = transform.weights["missing"]
    assert missing.abs().max(dim=1).values.min() > 0
    fused = transform.transform(WORLD.text, WORLD.image).vectors
    # What lies in a masked row is not looked at.
    vectors = WORLD.image.vectors.copy()
    vectors[NO_IMAGE[0]] = np.nan
    again = transform.transform(WORLD.text, dataclasses.replace(WORLD.image, vectors=vectors))
    np.testing.assert_array_equal(again.vectors, fused)
    # The token, not the mean image, which zero would stand for.
    transform_with_mean = dataclasses.replace(
        transform, weights=transform.weights | {"missing": torch.zeros_like(missing)}
    )
    with_mean = transform_with_mean.transform(WORLD.text, WORLD.image).vectors
    differing = np.flatnonzero((with_mean != fused).any(axis=1)) - 1
    assert differing.tolist() == sorted((*NO_IMAGE, *NO_TEXT))


@pytest.mark.parametrize("absent", ["image", "text"])
def test_a_modality_that_no_item_has_takes_no_part(absent: str) -> None:
    tables = {"text": WORLD.text, "image": WORLD.image}
    tables[absent] = masked(WORLD.text)
    transform = fit_attention(tables["text"], tables["image"], WORLD.histories, QUICK, CPU)
    summary = transform.summary()
    assert summary[f"{absent}_dim"] == 0
    assert summary["mean_attention"][absent] == 0
    assert sum(summary["mean_attention"].values()) == pytest.approx(1)
    fused = transform.transform(tables["text"], tables["image"])
    present = tables["text"].present | tables["image"].present
    np.testing.assert_array_equal(fused.present[1:], present)


def test_the_explained_variance_is_that_of_the_items_at_hand(
    transform: AttentionTransform,
) -> None:
    def explained(text: VectorTable, image: VectorTable) -> float:
        return float(transform.transform(text, image).provenance["explained_variance"])

    here = explained(WORLD.text, WORLD.image)
    held_out = transform.summary()["held_out_explained_variance"]
    assert 0.5 < held_out < 1
    assert here == pytest.approx(held_out, abs=0.05)
    random = np.random.default_rng(8)
    unrelated = []
    for table in (WORLD.text, WORLD.image):
        vectors = table.vectors.std(axis=0) * random.standard_normal(table.vectors.shape)
        unrelated.append(dataclasses.replace(table, vectors=vectors.astype(np.float32)))
    assert explained(*unrelated) < here - 0.2


def test_the_explained_variance_is_the_share_that_the_decoder_restores(
    transform: AttentionTransform,
) -> None:
    present = WORLD.image.present & (WORLD.image.item_id % 4 == 0)
    image = dataclasses.replace(WORLD.image, present=present)
    fused = transform.transform(WORLD.text, image)
    mean, scale = (transform.weights[name].double().numpy() for name in ("mean", "scale"))
    lost = whole = 0.0
    for row in range(len(WORLD.text.item_id)):
        restored = transform.decoder.double().numpy() @ fused.vectors[1 + row].astype(np.float64)
        for table, columns in (
            (WORLD.text, slice(0, TEXT_DIM)),
            (image, slice(TEXT_DIM, TEXT_DIM + IMAGE_DIM)),
        ):
            if table.present[row]:
                item = (table.vectors[row] - mean[columns]) / scale[columns]
                lost += ((restored[columns] - item) ** 2).sum()
                whole += (item**2).sum()
    assert fused.provenance["explained_variance"] == pytest.approx(1 - lost / whole, rel=1e-5)


def test_without_histories_it_learns_from_images_and_titles_alone_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    no_history = Ragged.from_lists([[]])
    transform = fit_attention(WORLD.text, WORLD.image, no_history, QUICK, CPU)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "no two items with a vector appear together in any history" in warning
    caplog.clear()
    fit_attention(WORLD.text, WORLD.image, WORLD.histories, QUICK, CPU)
    assert not any(r.levelno == logging.WARNING for r in caplog.records)
    assert transform.summary()["n_train_pairs_per_epoch"] == 0
    assert np.isfinite(transform.transform(WORLD.text, WORLD.image).vectors).all()


def test_a_saved_transform_is_the_same_one(tmp_path: Path, transform: AttentionTransform) -> None:
    path = tmp_path / "transforms" / "attention.pt"
    transform.save(path)
    loaded = AttentionTransform.load(path)
    assert loaded.identity == transform.identity
    assert loaded.identity.startswith("attention16:")
    assert loaded.summary() == transform.summary()
    first, second = (t.transform(WORLD.text, WORLD.image) for t in (transform, loaded))
    np.testing.assert_array_equal(first.vectors, second.vectors)
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
    fit_pca(WORLD.text, WORLD.image, FusionConfig(dim=4)).save(path)
    with pytest.raises(ValueError, match="not an attention fusion"):
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
    other = dataclasses.replace(WORLD.image, identity="x")
    with pytest.raises(ValueError, match="fitted on image vectors of 'covers', these are of 'x'"):
        transform.transform(WORLD.text, other)
    fewer = WORLD.image.aligned_to(WORLD.image.item_id[:-2])
    with pytest.raises(ValueError, match="2 only in text"):
        transform.transform(WORLD.text, fewer)
    with pytest.raises(ValueError, match="2 only in text"):
        fit_attention(WORLD.text, fewer, WORLD.histories, QUICK, CPU)
    with pytest.raises(ValueError, match="history holds item 5"):
        fitted(world=dataclasses.replace(WORLD, histories=Ragged.from_lists([[2, 5]])))


def test_what_cannot_be_fitted_is_refused() -> None:
    vectors = WORLD.text.vectors.copy()
    vectors[10, 3] = np.inf
    broken = dataclasses.replace(WORLD.text, vectors=vectors)
    with pytest.raises(ValueError, match=f"vector of item {WORLD.text.item_id[10]} by titles"):
        fitted(world=dataclasses.replace(WORLD, text=broken))
    nothing = masked(WORLD.text)
    with pytest.raises(ValueError, match="0 items have a text or an image vector"):
        fit_attention(nothing, nothing, WORLD.histories, QUICK, CPU)
