"""Incomplete or damaged text models are refused and named; complete ones load in any form."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling

from mmctr_pipeline.encoders.locate import ModelNotFoundError, locate_text_model
from mmctr_pipeline.encoders.model_files import ModelFilesError
from mmctr_pipeline.encoders.text.models import SentenceModel
from mmctr_pipeline_tests.encoders.changed_models import (
    LAYER,
    break_link,
    cut_file,
    edit_settings,
    edit_tensors,
    keep_words,
    malicious_weights,
    remove,
    remove_a_layer,
    rename_a_tensor,
    replace_file,
    split_weights,
    write_pickle,
    write_raw_pickle,
    write_words_without_merges,
)
from mmctr_pipeline_tests.encoders.small_models import TEXT_WIDTH, write_sentence_model
from mmctr_pipeline_tests.encoders.unusable_files import POINTER

PAGE = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"
TEXTS = ["A cat", "two dogs and a bird", "soup"]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    return write_sentence_model(folder, "bert", Pooling(TEXT_WIDTH, "mean"), Dense(TEXT_WIDTH, 8))


@pytest.fixture
def folder(complete: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(complete, copy)
    return copy


def load_model(folder: Path) -> SentenceModel:
    return SentenceModel(locate_text_model(str(folder)), "cpu", torch.float32)


def unchanged_state(folder: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no vocabulary": (remove("tokenizer.json"), r"model has no vocabulary \(tokenizer\.json"),
    "vocabulary without words": (
        keep_words(lambda word, index: word[0] == "["),
        "its tokeniser knows no word, not even 'the cat",
    ),
    "half a vocabulary": (
        keep_words(lambda word, index: index < 15_000),
        r"tokeniser has 15,\d+ tokens, but the weights have 30,522",
    ),
    "vocabulary without merges": (write_words_without_merges, r"model has no merges\.txt"),
    "vocabulary is a pointer": (
        replace_file("tokenizer.json", POINTER),
        r"tokenizer\.json is a Git LFS pointer",
    ),
    "vocabulary is a web page": (
        replace_file("tokenizer.json", PAGE),
        r"tokenizer\.json is a web page",
    ),
    "vocabulary is cut": (cut_file("tokenizer.json", 9999), r"tokenizer\.json is not JSON"),
    "no config": (remove("config.json"), r"model has no config\.json, which Transformer needs"),
    "config is empty": (replace_file("config.json", b""), r"/config\.json is empty"),
    "config without model": (replace_file("config.json", b"{}"), r"model cannot be loaded as a"),
    "no modules.json": (remove("modules.json"), r"has config_sentence\S+, but no modules\.json"),
    "modules not a list": (
        replace_file("modules.json", b'{"a": 1}'),
        r"modules\.json is not a list",
    ),
    "no pooling": (remove("1_Pooling"), r"1_Pooling has no config\.json, which Pooling needs"),
    "pooling without settings": (
        replace_file("1_Pooling/config.json", b"{}"),
        "model cannot be loaded",
    ),
    "no weights of a layer": (remove("2_Dense/model.safetensors"), "2_Dense has no weights"),
    "layer's weights empty": (
        replace_file("2_Dense/model.safetensors", b""),
        r"2_Dense/\S+ is empty",
    ),
    "layer's tensor missing": (
        edit_tensors(lambda state: state.pop("linear.bias"), "2_Dense/model.safetensors"),
        "cannot be loaded as a sentence-transformers model .*linear.bias",
    ),
    "weights are a pointer": (
        replace_file("model.safetensors", POINTER),
        r"model\.safetensors is a Git LFS pointer",
    ),
    "weights are a web page": (
        replace_file("model.safetensors", PAGE),
        r"model\.safetensors is a web page",
    ),
    "weights are a broken link": (
        break_link("model.safetensors"),
        r"model has no weights \(model\.safetensors",
    ),
    "vocabulary is a broken link": (
        break_link("tokenizer.json"),
        r"model has no vocabulary \(tokenizer\.json",
    ),
    "weights are empty": (replace_file("model.safetensors", b""), r"model\.safetensors is empty"),
    "weights are cut": (
        cut_file("model.safetensors", 99_999),
        r"model\.safetensors is damaged or truncated",
    ),
    "weights' header is cut": (cut_file("model.safetensors", 5), r"model\.safetensors is damaged"),
    "weights are text": (
        replace_file("model.safetensors", b"{'a': 1}" * 9),
        r"safetensors is damaged",
    ),
    "tensor missing": (edit_tensors(lambda state: state.pop(LAYER)), f"they lack {LAYER}"),
    "tensor renamed": (edit_tensors(rename_a_tensor), f"they lack {LAYER}"),
    "layer missing": (
        edit_tensors(remove_a_layer),
        r"they lack encoder\.layer\.1\.\S+, .* and 13 more",
    ),
    "extra layer": (
        edit_settings("config.json", num_hidden_layers=1),
        r"they have too many: encoder\.layer\.1\.",
    ),
    "wrong shape": (
        edit_settings("config.json", intermediate_size=48),
        r"they have a wrong shape: encoder\.layer\.0\.intermediate\.dense\.\S+ \(64,\) instead of",
    ),
    "part of the weights missing": (
        lambda folder: split_weights(folder).unlink(),
        r"lacks model-00002-of-00002\.safetensors, a part",
    ),
    "part of the weights cut": (
        lambda folder: cut_file(split_weights(folder).name, 500)(folder),
        r"model-00002-of-00002\.safetensors is damaged",
    ),
    "index without weights": (
        lambda folder: (
            split_weights(folder),
            replace_file("model.safetensors.index.json", b"[]")(folder),
        ),
        r"model\.safetensors\.index\.json has no weight_map",
    ),
    "malicious pickle": (
        write_pickle(malicious_weights),
        r"pytorch_model\.bin holds \S*mkdir besides tensors",
    ),
    "malicious raw pickle": (
        write_raw_pickle(),
        r"pytorch_model\.bin holds other than plain tensors",
    ),
    "pickle of arrays": (
        write_pickle(lambda folder, state: {"epoch": np.float64(3.0), **state}),
        r"pytorch_model\.bin holds numpy\S+ besides tensors",
    ),
    "pickle without tensors": (
        write_pickle(lambda folder, state: [1, 2]),
        r"pytorch_model\.bin holds no table of tensors",
    ),
    "pickle is cut": (
        lambda folder: (
            write_pickle(unchanged_state)(folder),
            cut_file("pytorch_model.bin", 9999)(folder),
        ),
        r"pytorch_model\.bin is damaged",
    ),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_incomplete_or_damaged_models_are_refused(
    folder: Path, change: Callable[[Path], Any], message: str
) -> None:
    change(folder)
    with pytest.raises((ModelFilesError, ModelNotFoundError), match=message) as error:
        load_model(folder)
    assert str(folder) in str(error.value)
    assert "Fix: " in str(error.value)
    assert not (folder / "mark").exists()


def add_a_head(state: dict[str, torch.Tensor]) -> None:
    state["cls.predictions.bias"] = torch.zeros(30_522)


COMPLETE_FORMS: dict[str, Callable[[Path], Any]] = {
    "unchanged": lambda folder: None,
    "without the unused pooler": edit_tensors(lambda state: state.pop("pooler.dense.bias")),
    "with a head for another task": edit_tensors(add_a_head),
    "in parts": split_weights,
    "pickled tensors": write_pickle(unchanged_state),
    "without the tokeniser's settings": remove("tokenizer_config.json"),
}


@pytest.mark.parametrize("change", COMPLETE_FORMS.values(), ids=COMPLETE_FORMS)
def test_other_forms_of_a_complete_model_give_equal_vectors(
    folder: Path, complete: Path, change: Callable[[Path], Any]
) -> None:
    library = SentenceTransformer(str(complete), device="cpu", local_files_only=True)
    change(folder)
    vectors = load_model(folder).encode(TEXTS, 64)
    expected = library.encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


def test_a_model_without_sentence_transformers_files_is_loaded(
    complete: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(complete / name, folder / name)
    vectors = load_model(folder).encode(TEXTS, 64)
    assert vectors.shape == (3, TEXT_WIDTH)
    (folder / "1_Pooling").mkdir()
    with pytest.raises(ModelFilesError, match=r"has 1_Pooling, but no modules\.json"):
        load_model(folder)


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(folder)
    assert capfd.readouterr() == ("", "")
