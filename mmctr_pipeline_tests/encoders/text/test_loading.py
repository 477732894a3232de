"""An incomplete or damaged text model is refused by file name; a complete one never is."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling

from mmctr_pipeline.encoders.locate import ModelNotFoundError, locate_text_model
from mmctr_pipeline.encoders.model_files import ModelFilesError
from mmctr_pipeline.encoders.text.models import SentenceModel
from mmctr_pipeline_tests.encoders.small_models import TEXT_WIDTH, write_sentence_model
from mmctr_pipeline_tests.encoders.unusable_files import POINTER, Payload

PAGE = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"
TEXTS = ["A cat", "two dogs and a bird", "soup"]
LAYER = "encoder.layer.1.attention.self.query.weight"


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    return write_sentence_model(folder, "bert", Pooling(TEXT_WIDTH, "mean"), Dense(TEXT_WIDTH, 8))


@pytest.fixture
def folder(complete: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(complete, copy)
    return copy


def loaded(folder: Path) -> SentenceModel:
    return SentenceModel(locate_text_model(str(folder)), "cpu", torch.float32)


def replaced(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def linked_to_nothing(name: str) -> Callable[[Path], None]:
    """As an interrupted download into the hub's cache leaves it."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("nowhere")

    return change


def cut(name: str, n_bytes: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:n_bytes])

    return change


def tensors(
    edit: Callable[[dict[str, torch.Tensor]], Any], name: str = "model.safetensors"
) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = load_file(folder / name)
        edit(state)
        save_file(state, folder / name, metadata={"format": "pt"})

    return change


def settings(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def renamed(state: dict[str, torch.Tensor]) -> None:
    state[LAYER.replace("query", "querry")] = state.pop(LAYER)


def one_layer_less(state: dict[str, torch.Tensor]) -> None:
    for name in [name for name in state if name.startswith("encoder.layer.1.")]:
        del state[name]


def without_words(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {word: at for word, at in vocabulary.items() if word[0] == "["}
    path.write_text(json.dumps(content))


def half_the_words(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {word: at for word, at in vocabulary.items() if at < 15_000}
    path.write_text(json.dumps(content))


def words_without_merges(folder: Path) -> None:
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(words))


def sharded(folder: Path) -> Path:
    """Split the weights into two files with an index; return the second."""
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    parts = {
        "model-00001-of-00002.safetensors": names[:10],
        "model-00002-of-00002.safetensors": names[10:],
    }
    for part, held in parts.items():
        save_file({name: state[name] for name in held}, folder / part, metadata={"format": "pt"})
    weight_map = {name: part for part, held in parts.items() for name in held}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return folder / "model-00002-of-00002.safetensors"


def pickled(content: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        torch.save(content(folder), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    return change


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def malicious(folder: Path) -> dict[str, Any]:
    return {**weights(folder), "payload": Payload(folder / "mark")}


def raw_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(folder / "mark")))
    (folder / "model.safetensors").unlink()


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no vocabulary": (without("tokenizer.json"), r"model has no vocabulary \(tokenizer\.json"),
    "vocabulary without words": (without_words, "its tokeniser knows no word, not even 'the cat"),
    "half a vocabulary": (half_the_words, r"tokeniser has 15,\d+ tokens, the weights 30,522"),
    "vocabulary without merges": (words_without_merges, r"model has no merges\.txt"),
    "vocabulary is a pointer": (replaced("tokenizer.json", POINTER), r"tokenizer\.json is a Git"),
    "vocabulary is a page": (replaced("tokenizer.json", PAGE), r"tokenizer\.json is a web page"),
    "vocabulary is cut": (cut("tokenizer.json", 9999), r"tokenizer\.json is no JSON"),
    "no config": (without("config.json"), r"model has no config\.json, which Transformer needs"),
    "config is empty": (replaced("config.json", b""), r"/config\.json is empty"),
    "config of no model": (replaced("config.json", b"{}"), r"model cannot be loaded as a sent"),
    "no modules.json": (without("modules.json"), r"has config_sentence\S+, but no modules\.json"),
    "modules of no list": (replaced("modules.json", b'{"a": 1}'), r"modules\.json is no list"),
    "no pooling": (without("1_Pooling"), r"1_Pooling has no config\.json, which Pooling needs"),
    "pooling of no settings": (replaced("1_Pooling/config.json", b"{}"), "model cannot be loaded"),
    "no weights of a layer": (without("2_Dense/model.safetensors"), "2_Dense has no weights"),
    "layer's weights empty": (replaced("2_Dense/model.safetensors", b""), r"2_Dense/\S+ is empty"),
    "layer's tensor missing": (
        tensors(lambda state: state.pop("linear.bias"), "2_Dense/model.safetensors"),
        "cannot be loaded as a sentence-transformers model .*linear.bias",
    ),
    "weights are a pointer": (
        replaced("model.safetensors", POINTER),
        r"model\.safetensors is a Git",
    ),
    "weights are a page": (
        replaced("model.safetensors", PAGE),
        r"model\.safetensors is a web page",
    ),
    "weights are a link to nothing": (
        linked_to_nothing("model.safetensors"),
        r"model has no weights \(model\.safetensors",
    ),
    "vocabulary is a link to nothing": (
        linked_to_nothing("tokenizer.json"),
        r"model has no vocabulary \(tokenizer\.json",
    ),
    "weights are empty": (replaced("model.safetensors", b""), r"model\.safetensors is empty"),
    "weights are cut": (
        cut("model.safetensors", 99_999),
        r"model\.safetensors is damaged or trunc",
    ),
    "weights' header is cut": (cut("model.safetensors", 5), r"model\.safetensors is damaged"),
    "weights are text": (replaced("model.safetensors", b"{'a': 1}" * 9), r"safetensors is damaged"),
    "tensor missing": (tensors(lambda state: state.pop(LAYER)), f"they lack {LAYER}"),
    "tensor renamed": (tensors(renamed), f"they lack {LAYER}"),
    "layer missing": (tensors(one_layer_less), r"they lack encoder\.layer\.1\.\S+, .* and 13 more"),
    "layer too many": (
        settings("config.json", num_hidden_layers=1),
        r"they have too much: encoder\.layer\.1\.",
    ),
    "wrong shape": (
        settings("config.json", intermediate_size=48),
        r"they have a wrong shape: encoder\.layer\.0\.intermediate\.dense\.\S+ \(64,\) for \(48,\)",
    ),
    "part of the weights missing": (
        lambda folder: sharded(folder).unlink(),
        r"lacks model-00002-of-00002\.safetensors, a part",
    ),
    "part of the weights cut": (
        lambda folder: cut(sharded(folder).name, 500)(folder),
        r"model-00002-of-00002\.safetensors is damaged",
    ),
    "index of no weights": (
        lambda folder: (sharded(folder), replaced("model.safetensors.index.json", b"[]")(folder)),
        r"model\.safetensors\.index\.json has no weight_map",
    ),
    "malicious pickle": (pickled(malicious), r"pytorch_model\.bin holds \S*mkdir besides tensors"),
    "malicious raw pickle": (raw_pickle, r"pytorch_model\.bin holds other than plain tensors"),
    "pickle of arrays": (
        pickled(lambda folder: {"epoch": np.float64(3.0), **weights(folder)}),
        r"pytorch_model\.bin holds numpy\S+ besides tensors",
    ),
    "pickle of no tensors": (pickled(lambda _: [1, 2]), r"pytorch_model\.bin holds no table"),
    "pickle is cut": (
        lambda folder: (pickled(weights)(folder), cut("pytorch_model.bin", 9999)(folder)),
        r"pytorch_model\.bin is damaged",
    ),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_an_incomplete_model_is_refused(
    folder: Path, change: Callable[[Path], Any], message: str
) -> None:
    change(folder)
    with pytest.raises((ModelFilesError, ModelNotFoundError), match=message) as error:
        loaded(folder)
    assert str(folder) in str(error.value)
    assert "Fix: " in str(error.value)
    assert not (folder / "mark").exists()


def with_a_head(state: dict[str, torch.Tensor]) -> None:
    state["cls.predictions.bias"] = torch.zeros(30_522)


SOUND: dict[str, Callable[[Path], Any]] = {
    "unchanged": lambda folder: None,
    "without the unused pooler": tensors(lambda state: state.pop("pooler.dense.bias")),
    "with a head for another task": tensors(with_a_head),
    "in parts": sharded,
    "pickled tensors": pickled(weights),
    "without the tokeniser's settings": without("tokenizer_config.json"),
}


@pytest.mark.parametrize("change", SOUND.values(), ids=SOUND)
def test_other_forms_of_a_complete_model_give_equal_vectors(
    folder: Path, complete: Path, change: Callable[[Path], Any]
) -> None:
    library = SentenceTransformer(str(complete), device="cpu", local_files_only=True)
    change(folder)
    vectors = loaded(folder).encode(TEXTS, 64)
    expected = library.encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


def test_a_model_of_transformers_alone_is_loaded(complete: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(complete / name, folder / name)
    vectors = loaded(folder).encode(TEXTS, 64)
    assert vectors.shape == (3, TEXT_WIDTH)
    (folder / "1_Pooling").mkdir()
    with pytest.raises(ModelFilesError, match=r"has 1_Pooling, but no modules\.json"):
        loaded(folder)
