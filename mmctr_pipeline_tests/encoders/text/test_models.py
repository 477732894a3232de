"""Text models give the vectors of the libraries they come from."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, StaticEmbedding
from tokenizers import Tokenizer

from mmctr_pipeline.encoders.clip import LoadedClip, load_clip
from mmctr_pipeline.encoders.locate import locate_image_model, locate_text_model
from mmctr_pipeline.encoders.text.models import (
    ClipTextModel,
    SentenceModel,
    batches_by_length,
)
from mmctr_pipeline.sample.catalogue import draw_catalogue
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.titles import draw_titles
from mmctr_pipeline_tests.encoders.small_models import (
    LONGEST_TEXT,
    TEXT_WIDTH,
    random_clip,
    write_sentence_model,
)

TEXTS = [
    "How to fold a dumpling in ten seconds",
    "#cat #funny 😂😂",
    "word " * 20_000,
    "a\0b",
    "你好，世界",
    "x",
    # In open_clip's vocabulary an exclamation mark is token 0, like padding.
    "!%!#!@",
    "A longer title, which needs more tokens than the others: cats, dogs, birds and one fish",
    "😂",
]


@pytest.fixture(scope="module")
def minilm() -> SentenceModel:
    return SentenceModel(locate_text_model("all-MiniLM-L6-v2"), "cpu", torch.float32)


@pytest.fixture(scope="module")
def library() -> SentenceTransformer:
    return loaded_by_library(locate_text_model("all-MiniLM-L6-v2").folder)


@pytest.fixture(scope="module")
def tiny_clip() -> LoadedClip:
    return load_clip(locate_image_model("tiny-clip"), "cpu")


@pytest.fixture(scope="module")
def expected(library: SentenceTransformer) -> np.ndarray:
    return library.encode(TEXTS, show_progress_bar=False)


def loaded_by_library(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def assert_equal_in_order(vectors: np.ndarray, expected: np.ndarray) -> None:
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)
    # The rows differ, so that a wrong order would fail above.
    distances = np.linalg.norm(expected[:, None] - expected, axis=2)
    assert distances[~np.eye(len(expected), dtype=bool)].min() > 0.05


# The longest text has more than 40 tokens; 1,000 are enough for all the others together.
@pytest.mark.parametrize("batch_tokens", [40, 1000])
def test_all_minilm_gives_the_vectors_of_the_library_in_text_order(
    minilm: SentenceModel, expected: np.ndarray, batch_tokens: int
) -> None:
    counts: list[int] = []
    assert_equal_in_order(minilm.encode(TEXTS, batch_tokens, counts.append), expected)
    assert sum(counts) == len(TEXTS)
    assert len(counts) > 1
    assert (minilm.dim, minilm.longest) == (384, 256)


def test_encode_by_library_equals_the_library(
    minilm: SentenceModel, library: SentenceTransformer
) -> None:
    expected = library.encode(TEXTS[:3], show_progress_bar=False)
    np.testing.assert_array_equal(minilm.encode_by_library(TEXTS[:3]), expected)


def test_all_minilm_in_bfloat16_is_close_to_float32(library: SentenceTransformer) -> None:
    config = SampleConfig.scaled(0.1)
    titles = [title for title in draw_titles(draw_catalogue(config), config) if title][:32]
    model = SentenceModel(locate_text_model("all-MiniLM-L6-v2"), "cpu", torch.bfloat16)
    vectors = model.encode(titles, 1024)
    expected = library.encode(titles, show_progress_bar=False)
    cosine = (vectors * expected).sum(axis=1) / np.linalg.norm(vectors, axis=1)
    assert len(cosine) == 32
    assert cosine.mean() >= 0.9999
    # The vectors were really computed in bfloat16.
    assert np.abs(vectors - expected).max() > 1e-4


def test_tokens_are_counted_before_truncation(minilm: SentenceModel) -> None:
    texts = ["cat", "cat " * 254, "cat " * 255, "cat " * 3000]
    assert minilm.token_counts(texts).tolist() == [3, 256, 257, 3002]
    assert minilm.token_counts([]).tolist() == []


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_other_architectures_give_the_vectors_of_the_library(
    tmp_path: Path, precision: torch.dtype
) -> None:
    folder = write_sentence_model(tmp_path / "model", "distilbert", Pooling(TEXT_WIDTH, "mean"))
    expected = loaded_by_library(folder).encode(TEXTS, show_progress_bar=False)
    vectors = SentenceModel(locate_text_model(str(folder)), "cpu", precision).encode(TEXTS, 64)
    if precision == torch.float32:
        assert_equal_in_order(vectors, expected)
    else:
        cosine = torch.cosine_similarity(torch.from_numpy(vectors), torch.from_numpy(expected))
        assert 0.99 < cosine.mean() < 0.999999


def build_modules(case: str) -> list[Any]:
    if case == "first token and dense":
        torch.manual_seed(1)
        return [Pooling(TEXT_WIDTH, "cls"), Dense(TEXT_WIDTH, 20)]
    # In the case "prompt left out", the mean excludes the tokens of the prompt.
    return [Pooling(TEXT_WIDTH, "mean", include_prompt=case != "prompt left out")]


@pytest.mark.parametrize(
    ("case", "prompts", "dim", "width"),
    [
        ("first token and dense", {}, 0, 20),
        ("prompt", {"passage": "a passage: "}, 0, TEXT_WIDTH),
        ("prompt left out", {"passage": "a passage: "}, 0, TEXT_WIDTH),
        ("fewer dimensions", {}, 16, 16),
    ],
)
def test_bert_with_further_modules_gives_the_vectors_of_the_library(
    tmp_path: Path, case: str, prompts: dict[str, str], dim: int, width: int
) -> None:
    folder = write_sentence_model(
        tmp_path / "model", "bert", *build_modules(case), prompts=prompts, dim=dim
    )
    model = SentenceModel(locate_text_model(str(folder)), "cpu", torch.float32)
    expected = loaded_by_library(folder).encode(TEXTS, show_progress_bar=False)
    vectors = model.encode(TEXTS, 64)
    assert_equal_in_order(vectors, expected)
    assert (model.dim, vectors.shape[1], model.longest) == (width, width, LONGEST_TEXT)
    n_prompt = 3 if prompts else 0
    assert model.token_counts(["cat"]).tolist() == [3 + n_prompt]


def test_static_embeddings_give_the_vectors_of_the_library(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(
        str(locate_text_model("all-MiniLM-L6-v2").folder / "tokenizer.json")
    )
    torch.manual_seed(0)
    library = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu"
    )
    library.save(str(tmp_path / "static"))
    located = locate_text_model(str(tmp_path / "static"))
    model = SentenceModel(located, "cpu", torch.bfloat16)
    texts = ["a cat", "a much longer text about cats", "soup"]
    expected = library.encode(texts, show_progress_bar=False)
    assert model.dim == 16
    np.testing.assert_allclose(model.encode(texts, 64), expected, atol=1e-6)
    assert model.token_counts(texts).tolist() == [2, 6, 1]


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_clip_text_tower_equals_open_clip_in_order(
    tiny_clip: LoadedClip, batch_tokens: int
) -> None:
    model = ClipTextModel(tiny_clip.model, tiny_clip.tokenizer(), "cpu", torch.float32)
    counts: list[int] = []
    vectors = model.encode(TEXTS, batch_tokens, counts.append)
    assert sum(counts) == len(TEXTS)
    assert_equal_in_order(vectors, encoded_by_open_clip(tiny_clip.model, TEXTS, 32))
    assert (model.dim, model.longest) == (128, 32)
    np.testing.assert_array_equal(
        model.encode_by_library(TEXTS), encoded_by_open_clip(tiny_clip.model, TEXTS, 32)
    )


def test_clip_text_tower_in_bfloat16_is_close_to_float32(tiny_clip: LoadedClip) -> None:
    model = ClipTextModel(tiny_clip.model, tiny_clip.tokenizer(), "cpu", torch.bfloat16)
    vectors = torch.from_numpy(model.encode(TEXTS, 100))
    plain = torch.from_numpy(encoded_by_open_clip(tiny_clip.model, TEXTS, 32))
    assert 0.999 < torch.cosine_similarity(vectors, plain).min() < 0.999999


@pytest.mark.parametrize("changes", [{"no_causal_mask": True}, {"pool_type": "last"}])
def test_text_tower_that_needs_texts_at_full_length_equals_open_clip(
    changes: dict[str, object],
) -> None:
    torch.manual_seed(0)
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    clip = random_clip({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text | changes})
    with torch.no_grad():
        # As initialised, the embeddings of all positions and of all words are almost equal.
        clip.positional_embedding.mul_(30)
        clip.token_embedding.weight.mul_(30)
    tokenize = open_clip.tokenizer.SimpleTokenizer(context_length=16)
    vectors = ClipTextModel(clip, tokenize, "cpu", torch.float32).encode(TEXTS, 40)
    expected = encoded_by_open_clip(clip, TEXTS, 16)
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


def encoded_by_open_clip(model: Any, texts: list[str], length: int) -> np.ndarray:
    tokenize = open_clip.tokenizer.SimpleTokenizer(context_length=length)
    with torch.inference_mode():
        return model.encode_text(tokenize(texts)).numpy()


def test_clip_token_counts_exceed_the_limit_for_truncated_texts(tiny_clip: LoadedClip) -> None:
    model = ClipTextModel(tiny_clip.model, tiny_clip.tokenizer(), "cpu", torch.float32)
    texts = ["cat", "!%!#!@", "", "cat " * 29, "cat " * 30, "cat " * 31, "word " * 20_000]
    assert model.token_counts(texts).tolist() == [3, 7, 2, 31, 32, 33, 33]
    assert model.token_counts([]).tolist() == []


@pytest.mark.parametrize("budget", [1, 30, 64, 100_000])
def test_batches_hold_each_position_once_within_the_budget(budget: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    batches = batches_by_length(lengths, budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(200))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= budget
    by_length = lengths[np.concatenate(batches)]
    assert (np.diff(by_length) <= 0).all()
    # There are no more batches than needed: only the last has room for another row.
    assert all((len(rows) + 1) * lengths[rows[0]] > budget for rows in batches[:-1])


def test_no_texts_give_no_batches() -> None:
    assert batches_by_length(np.zeros(0, np.int64), 8) == []
