"""Changed code of the user's own encoders and fusions is noticed, and so are wrong results."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmctr_pipeline import NewItem, code_version
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.encoders.config import TextEncoderConfig
from mmctr_pipeline.encoders.store.vector_store import VectorStore
from mmctr_pipeline.encoders.text import models
from mmctr_pipeline.encoders.text.encode import encode_titles
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.errors import FusionError
from mmctr_pipeline.fusion.fuse import Fusion, fuse
from mmctr_pipeline.fusion.own import OwnTransform, fit_own
from mmctr_pipeline.plugins import VARIABLE
from mmctr_pipeline.serving.errors import ScorerError
from mmctr_pipeline.serving.new_items import NewItemEncoder
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.fusion.test_fuse import IMAGE, TEXT
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE
from mmctr_pipeline_tests.training.small_sample import small_sample as small_dataset

CPU = torch.device("cpu")
CODE = """
import dataclasses
import numpy as np
from mmctr_pipeline.settings import Settings, setting

@dataclasses.dataclass(frozen=True)
class PowerSettings(Settings):
    power: int = setting(1, "power of the lengths", ge=1)

class Lengths:
    Config = PowerSettings
    def __init__(self, config, device=None):
        self.power = config.power
    def encode(self, texts):
        return [[len(text) ** self.power, len(set(text)), FACTOR] for text in texts]

class Short(Lengths):
    def unknown(self, texts):
        return [len(text) > FACTOR for text in texts]

class TooFew(Lengths):
    def encode(self, texts):
        return super().encode(texts[1:])

class NotFinite(Lengths):
    def encode(self, texts):
        return [[float("nan")] for _ in texts]

class Scaled:
    Config = PowerSettings
    def __init__(self, config):
        self.power = config.power
    def fit(self, vectors):
        return {"factor": np.array(FACTOR**self.power), "names": np.arange(len(vectors))}
    def fuse(self, vectors, fitted):
        return np.concatenate(list(vectors.values()), axis=1) * fitted["factor"]

class FitsAList(Scaled):
    def fit(self, vectors):
        return [1]

class FusesOneRow(Scaled):
    def fuse(self, vectors, fitted):
        return np.ones((1, 2))
"""


@dataclasses.dataclass
class OwnModule:
    """The module `own_parts`, whose code tests change as between two runs."""

    path: Path

    def write(self, factor: int) -> None:
        self.path.write_text(f"FACTOR = {factor}\n{CODE}")
        sys.modules.pop("own_parts", None)
        for cached in (code_version.code_version, code_version._parse, code_version._path):
            cached.cache_clear()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnModule:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, "own_parts")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a quick change has the same time
    module = OwnModule(tmp_path / "own_parts.py")
    module.write(factor=1)
    return module


def encode(folder: Path, **settings: Any) -> VectorTable:
    config = TextEncoderConfig.from_mapping({"source": "own_parts.Lengths", **settings})
    items = small_dataset(n_items=60)[0].items
    return encode_titles(items, config, CPU, VectorStore(folder / "vectors")).table


def test_titles_are_encoded_again_if_the_code_or_a_setting_changes(
    module: OwnModule, tmp_path: Path
) -> None:
    n_texts = 60
    first = encode(tmp_path)
    assert first.vectors[0].tolist() == [7, 6, 1]
    assert first.provenance["counts"]["encoded"] == n_texts
    assert encode(tmp_path).provenance["counts"]["reused"] == n_texts
    assert encode(tmp_path, power=2).vectors[0].tolist() == [49, 6, 1]
    module.write(factor=2)
    changed = encode(tmp_path)
    assert changed.provenance["counts"]["encoded"] == n_texts
    assert changed.vectors[0].tolist() == [7, 6, 2]
    assert changed.identity != first.identity
    module.write(factor=1)
    again = encode(tmp_path)
    assert again.provenance["counts"]["reused"] == n_texts
    assert again.identity == first.identity


@pytest.mark.slow
def test_titles_get_the_same_vectors_on_ray(module: OwnModule, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    on_ray = encode(tmp_path / "ray", power=2, compute="ray")
    local = encode(tmp_path / "local", power=2)
    assert on_ray.provenance["counts"]["encoded"] == len(local.item_id)
    assert on_ray.identity == local.identity
    assert on_ray.vectors.tobytes() == local.vectors.tobytes()
    # What was encoded on Ray is not encoded again.
    assert encode(tmp_path / "ray", power=2).provenance["counts"]["encoded"] == 0


def test_titles_that_an_encoder_does_not_know_get_no_vector(
    module: OwnModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module.write(factor=7)
    known = encode(tmp_path, source="own_parts.Short").present
    titles = small_dataset(n_items=60)[0].items.title.to_pylist()
    assert known.tolist() == [len(title) <= 7 for title in titles]
    assert 0 < known.sum() < 60
    # The encoder is asked in batches, and their size does not matter.
    monkeypatch.setattr(models, "_OWN_BATCH", 7)
    np.testing.assert_array_equal(encode(tmp_path, source="own_parts.Short").present, known)


def test_a_fusion_is_fitted_again_if_its_code_or_a_setting_changes(
    module: OwnModule, tmp_path: Path
) -> None:
    def fused(text: VectorTable = TEXT, image: VectorTable = IMAGE, **settings: Any) -> Fusion:
        config = FusionConfig.from_mapping({"method": "own_parts.Scaled", **settings})
        return fuse(text, image, list, config, CPU, tmp_path / "transforms", "/data")  # type: ignore[arg-type]

    module.write(factor=3)
    first = fused()
    expected = np.concatenate([TEXT.vectors, IMAGE.vectors], axis=1).astype(np.float64)
    expected -= expected.mean(axis=0)
    np.testing.assert_allclose(first.vectors.vectors[1:], 3 * expected, rtol=1e-4, atol=1e-5)
    assert first.vectors.provenance["explained_variance"] > 0.999
    assert OwnTransform.load(first.path).identity == first.transform.identity
    second = fused()
    assert second.reused
    np.testing.assert_array_equal(second.vectors.vectors, first.vectors.vectors)
    assert not fused(power=2).reused
    nowhere = np.zeros_like(IMAGE.present)
    no_image = dataclasses.replace(IMAGE, present=nowhere, identity="none")
    assert fused(image=no_image).vectors.dim == TEXT.dim

    module.write(factor=5)
    changed = fused()
    assert not changed.reused
    assert changed.transform.identity != first.transform.identity
    with pytest.raises(FusionError, match=r"code of own_parts.Scaled has changed since"):
        OwnTransform.load(first.path).transform(TEXT, IMAGE)


def test_a_new_item_is_refused_if_the_code_that_encodes_it_has_changed(
    module: OwnModule, tmp_path: Path
) -> None:
    text = encode(tmp_path)
    ids = text.item_id
    image = VectorTable(ids, np.zeros((len(ids), 1), np.float32), np.zeros(len(ids), bool), "none")
    fusion = FusionConfig.from_mapping({"method": "own_parts.Scaled"})
    fused = fuse(text, image, list, fusion, CPU, tmp_path / "transforms", "/data")  # type: ignore[arg-type]
    recorded = {
        "text_embeddings": {"encoder": {"source": "own_parts.Lengths"}},
        "image_embeddings": {"encoder": {"source": "none"}},
        "fused_pca": {"fusion": {"method": "own_parts.Scaled"}},
    }
    identity = fused.transform.identity
    model = dataclasses.replace(MODEL_FILE, resolved_config=recorded, transform_identity=identity)
    vectors = ItemVectors(fused.vectors, text, image)

    def encoded(new: NewItem) -> np.ndarray:
        return NewItemEncoder(model, tmp_path, vectors, CPU).encode([new]).fused.vectors

    np.testing.assert_array_equal(encoded(NewItem("title 0"))[0], fused.vectors.vectors[1])
    module.write(factor=2)
    with pytest.raises(ScorerError, match=r"own_parts.Lengths has changed since"):
        encoded(NewItem("title 0"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("TooFew", "array of shape"), ("NotFinite", "NaN or infinity")],
)
def test_an_encoder_that_returns_no_vectors_is_named(
    module: OwnModule, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=rf"own_parts.{name}.encode returned (an )?{message}"):
        encode(tmp_path, source=f"own_parts.{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [("FitsAList", "fit returned list"), ("FusesOneRow", "fuse returned an array of shape")],
)
def test_a_fusion_that_returns_no_vectors_is_named(
    module: OwnModule, name: str, message: str
) -> None:
    config = FusionConfig.from_mapping({"method": f"own_parts.{name}"})
    with pytest.raises(FusionError, match=rf"own_parts.{name}.{message}"):
        fit_own(TEXT, IMAGE, config)


def test_a_class_without_the_methods_of_its_kind_is_refused(module: OwnModule) -> None:
    with pytest.raises(SettingsError, match=r"own_parts.Lengths has no method fit"):
        FusionConfig.from_mapping({"method": "own_parts.Lengths"})
