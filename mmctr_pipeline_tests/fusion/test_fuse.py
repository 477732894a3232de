"""A transform is fitted once per combination of settings, encoders and data, and then reused."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.config import AttentionConfig, FusionConfig
from mmctr_pipeline.fusion.fuse import Fusion, StaleVectorsError, fuse, require_fused_from

N_ITEMS = 60
PCA = FusionConfig(dim=5)
ATTENTION = FusionConfig(
    method="attention", dim=5, attention=AttentionConfig(max_epochs=1, batch_size=32)
)


def table(seed: int, dim: int) -> VectorTable:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((N_ITEMS, 4)) @ random.standard_normal((4, dim))
    vectors += 0.1 * random.standard_normal((N_ITEMS, dim))
    ids = np.arange(1, N_ITEMS + 1, dtype=np.int32)
    return VectorTable(ids, vectors.astype(np.float32), np.ones(N_ITEMS, bool), f"encoder{seed}")


TEXT, IMAGE = table(1, 12), table(2, 9)
# The same items a day later, with other vectors, so that a new fit gives another basis.
TEXT_LATER = dataclasses.replace(table(3, 12), identity=TEXT.identity)


@dataclasses.dataclass
class Runs:
    """Successive runs with the same folder of transforms."""

    folder: Path
    caplog: pytest.LogCaptureFixture
    n_histories_read: int = 0

    def __call__(
        self,
        config: FusionConfig,
        text: VectorTable = TEXT,
        image: VectorTable = IMAGE,
        data: str = "/data/a",
    ) -> Fusion:
        self.caplog.clear()
        cpu = torch.device("cpu")
        return fuse(text, image, self._histories, config, cpu, self.folder, data)

    @property
    def log(self) -> list[str]:
        return self.caplog.messages

    def _histories(self) -> Ragged:
        self.n_histories_read += 1
        return Ragged.from_lists([[1, 2, 3], [4, 5, 6, 7], [8, 9]])


@pytest.fixture
def run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Runs:
    caplog.set_level(logging.INFO)
    return Runs(tmp_path / "transforms", caplog)


@pytest.mark.parametrize("config", [PCA, ATTENTION], ids=["pca", "attention"])
def test_a_second_run_reuses_the_transform(run: Runs, config: FusionConfig) -> None:
    first = run(config)
    assert not first.reused
    assert first.path.is_file()
    assert any("has no" in line and "/data/a" in line for line in run.log)
    n_histories_read = run.n_histories_read
    again = run(config)
    assert again.reused
    assert (again.path, again.vectors.identity) == (first.path, first.vectors.identity)
    np.testing.assert_array_equal(again.vectors.vectors, first.vectors.vectors)
    later = run(config, text=TEXT_LATER)
    assert later.reused
    assert later.transform.identity == first.transform.identity
    assert run.n_histories_read == n_histories_read
    assert not any("has no" in line for line in run.log)


def test_refit_makes_a_new_transform_the_newest(run: Runs) -> None:
    first = run(PCA)
    refit = run(dataclasses.replace(PCA, refit=True), text=TEXT_LATER)
    assert not refit.reused
    assert refit.transform.identity != first.transform.identity
    again = run(PCA)
    assert again.reused
    assert again.transform.identity == refit.transform.identity


@pytest.mark.parametrize(
    "changed",
    [
        {"text": dataclasses.replace(TEXT, identity="other")},
        {"image": dataclasses.replace(IMAGE, identity="other")},
        {"data": "/data/b"},
        {"config": dataclasses.replace(PCA, dim=4)},
        {"config": dataclasses.replace(PCA, input="unit")},
        {"config": dataclasses.replace(PCA, method="pca_each")},
        {"config": dataclasses.replace(PCA, rotate=True)},
    ],
    ids=["text encoder", "image encoder", "data", "dim", "input", "method", "rotate"],
)
def test_each_combination_of_settings_encoders_and_data_has_its_own_transform(
    run: Runs, changed: dict[str, Any]
) -> None:
    first = run(PCA)
    # Equal vectors would give equal transforms, so this run has the vectors of another day.
    other = run(**{"config": PCA, "text": TEXT_LATER} | changed)
    assert not other.reused
    assert other.transform.identity != first.transform.identity
    assert run(**{"config": PCA} | changed).transform.identity == other.transform.identity
    assert run(PCA).transform.identity == first.transform.identity


def test_the_settings_of_a_pca_mention_rotation_only_if_it_is_rotated(run: Runs) -> None:
    made_by = run(PCA).vectors.provenance["made_by"]
    assert made_by["settings"] == {"method": "pca", "dim": 5, "input": "raw"}
    rotated = run(dataclasses.replace(PCA, rotate=True)).vectors.provenance["made_by"]
    assert rotated["settings"] == {**made_by["settings"], "rotate": True}


def test_two_data_sets_with_equal_transforms_have_separate_records(run: Runs) -> None:
    first, second = run(PCA), run(PCA, data="/data/b")
    assert not second.reused
    assert second.path == first.path
    run(dataclasses.replace(PCA, refit=True), text=TEXT_LATER, data="/data/b")
    again = run(PCA)
    assert again.reused
    assert again.transform.identity == first.transform.identity


def test_a_run_of_another_method_does_not_change_what_is_reused(run: Runs) -> None:
    first = run(PCA)
    assert not run(ATTENTION).reused
    back = run(PCA)
    assert back.reused
    np.testing.assert_array_equal(back.vectors.vectors, first.vectors.vectors)
    assert run(ATTENTION).reused


def test_settings_of_the_other_method_are_ignored(run: Runs) -> None:
    run(PCA)
    assert run(dataclasses.replace(PCA, attention=AttentionConfig(seed=7))).reused
    run(ATTENTION)
    assert run(dataclasses.replace(ATTENTION, input="unit", rotate=True)).reused
    other_seed = dataclasses.replace(ATTENTION.attention, seed=7)
    assert not run(dataclasses.replace(ATTENTION, attention=other_seed)).reused


@pytest.mark.parametrize("config", [PCA, ATTENTION], ids=["pca", "attention"])
def test_a_damaged_transform_is_reported_with_the_fix_and_a_missing_one_refitted(
    run: Runs, config: FusionConfig
) -> None:
    path = run(config).path
    content = path.read_bytes()
    for n_bytes in (0, 1, 200, len(content) - 1):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(
            ValueError, match=r"remove it, or run once with fusion\.refit"
        ) as raised:
            run(config)
        assert str(path) in str(raised.value)
    assert not run(dataclasses.replace(config, refit=True)).reused
    assert run(config).reused
    path.unlink()
    assert not run(config).reused
    assert any(f"{path} no longer exists" in line for line in run.log)
    assert run(config).reused


def test_a_damaged_record_is_reported_with_the_fix(run: Runs) -> None:
    run(PCA)
    (record,) = run.folder.glob("*.json")
    record.write_text(record.read_text()[:20])
    with pytest.raises(ValueError, match=r"remove it, or run once with fusion\.refit") as raised:
        run(PCA)
    assert str(record) in str(raised.value)
    run(dataclasses.replace(PCA, refit=True))
    assert run(PCA).reused


def _small_table(identity: str) -> VectorTable:
    return VectorTable(
        np.array([1, 2], np.int32), np.ones((2, 3), np.float32), np.ones(2, bool), identity
    )


def test_only_the_vectors_that_were_fused_are_accepted() -> None:
    text, image = _small_table("text encoder"), _small_table("image encoder")
    fused = _small_table("pca").recording(
        text_content=text.content_hash(), image_content=image.content_hash()
    )
    require_fused_from(fused, text, image)
    vectors = text.vectors.copy()
    vectors[1, 2] += 1
    # Same encoder and items: only the content differs.
    with pytest.raises(StaleVectorsError, match="text_embeddings has been rewritten"):
        require_fused_from(fused, dataclasses.replace(text, vectors=vectors), image)
    with pytest.raises(StaleVectorsError, match="image"):
        require_fused_from(fused, text, dataclasses.replace(image, present=~image.present))
