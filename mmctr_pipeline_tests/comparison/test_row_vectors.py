"""The vectors of a row equal those of the assets, are withheld, or are random projections."""

import dataclasses
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mmctr_pipeline.comparison.entries import Entry, ablation_entries, fusion_entries
from mmctr_pipeline.comparison.row_vectors import RowVectors, random_projection
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.pca import fit_pca
from mmctr_pipeline.pipeline import load_dataset
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.training.small_sample import small_sample as tiny_sample

GIVEN = load_preset("improved_mmctr_given")


@pytest.fixture(scope="module", name="storage")
def storage_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module", name="row_vectors")
def row_vectors_of_sample(small_sample: Path, storage: Path) -> RowVectors:
    layout = find_data(small_sample)
    return RowVectors(layout, load_dataset(layout).items, storage, torch.device("cpu"))


def test_a_row_is_encoded_and_fused_as_its_preset_says(
    row_vectors: RowVectors, small_sample: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    vectors = row_vectors(Entry("given", GIVEN))
    text, image = vectors.text, vectors.image
    assert text is not None
    assert image is not None
    assert text.identity.startswith("given:item_feature.txt_emb_BERT")
    assert image.identity.startswith("given:item_feature.img_emb_CLIPRN50")
    expected = fit_pca(text, image, GIVEN.fusion).transform(text, image)
    np.testing.assert_array_equal(vectors.fused.vectors, expected.vectors)
    assert vectors.fused.provenance["made_by"]["data"] == str(small_sample.resolve())
    # The transform is kept in the store that the assets use, and is used again for the same data.
    caplog.clear()
    again = row_vectors(Entry("given", GIVEN))
    assert again.fused.identity == vectors.fused.identity
    assert again.fused.provenance["transform_reused"]
    assert again.text is text


def test_withheld_modalities_are_absent_from_the_fusion_and_the_model(
    row_vectors: RowVectors,
) -> None:
    both, text_only, images_only, neither = map(row_vectors, ablation_entries(GIVEN))
    for table, whole, has_vectors in (
        (text_only.text, both.text, True),
        (text_only.image, both.image, False),
        (images_only.text, both.text, False),
        (images_only.image, both.image, True),
        (neither.text, both.text, False),
        (neither.image, both.image, False),
    ):
        assert table is not None
        assert whole is not None
        assert table.dim == whole.dim
        assert table.vectors.any() == table.present.any() == has_vectors
    assert both.text is not None
    assert text_only.image is not None
    alone = fit_pca(both.text, text_only.image, GIVEN.fusion)
    expected = alone.transform(both.text, text_only.image)
    np.testing.assert_array_equal(text_only.fused.vectors, expected.vectors)
    # The model of `neither` has inputs of the same width, all zeros.
    assert neither.fused.vectors.shape == (len(both.text.item_id), GIVEN.fusion.dim)
    assert not neither.fused.vectors.any()
    assert neither.fused.present.all()


def test_fusions_give_different_vectors_and_only_seeded_ones_vary_by_seed(
    row_vectors: RowVectors,
) -> None:
    attention = dataclasses.replace(GIVEN.fusion.attention, max_epochs=1, rows_per_epoch=500)
    fusion = dataclasses.replace(GIVEN.fusion, dim=8, attention=attention)
    entries = fusion_entries(dataclasses.replace(GIVEN, fusion=fusion))
    first, second = (
        [row_vectors(entry.with_seed(number, 0.0)).fused for entry in entries] for number in (0, 1)
    )
    pcas = ["pca_each8-raw"] * 2 + ["pca8-standardised"] * 2 + ["pca8-raw"]
    identities = [table.identity.split(":")[0] for table in first]
    assert identities == [*pcas, "attention8", "random8-1", "random8-1"]
    # A PCA has no seed.
    for number in range(len(pcas)):
        assert first[number].identity == second[number].identity
    hashes = {table.content_hash() for table in (*first, *second)}
    assert len(hashes) == len(first) + len(second) - len(pcas)


def test_random_projections_keep_distances_roughly_and_follow_the_seed() -> None:
    text = tiny_sample()[1].fused.aligned_to(np.arange(1, 61))

    def projected(dim: int, seed: int, standardised: bool = False) -> VectorTable:
        return random_projection(text, text, dim, seed, standardised)

    wide = projected(4000, 1)
    assert not wide.vectors[0].any()
    assert wide.present.tolist() == text.present.tolist()
    real = text.vectors[1:] - text.vectors[1:].mean(axis=0)
    lengths = np.linalg.norm(wide.vectors[1:], axis=1)
    np.testing.assert_allclose(lengths, math.sqrt(2) * np.linalg.norm(real, axis=1), rtol=0.15)
    standardised = projected(4000, 1, standardised=True).vectors[1:]
    assert np.square(standardised).sum(axis=1).mean() == pytest.approx(2, rel=0.05)
    np.testing.assert_array_equal(projected(8, 1).vectors, projected(8, 1).vectors)
    assert not np.array_equal(projected(8, 1).vectors, projected(8, 2).vectors)


def test_an_unavailable_encoder_is_a_settings_error(
    row_vectors: RowVectors, tmp_path: Path
) -> None:
    preset = tmp_path / "absent.yaml"
    preset.write_text("extends: improved_mmctr\nencoders: {text: {model: local-dir:/nowhere}}\n")
    with pytest.raises(SettingsError, match="nowhere"):
        row_vectors(Entry("absent", load_preset(str(preset))))
