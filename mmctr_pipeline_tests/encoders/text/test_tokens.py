"""Titles without a known word are found with every kind of tokeniser, and get no vector."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mmctr_pipeline.encoders.config import TextEncoderConfig
from mmctr_pipeline.encoders.locate import locate_text_model
from mmctr_pipeline.encoders.store.vector_store import VectorStore
from mmctr_pipeline.encoders.text import tokens
from mmctr_pipeline.encoders.text.encode import encode_titles
from mmctr_pipeline.encoders.text.tokens import unknown_only
from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline_tests.encoders.text.titled_items import item_table

KNOWN = ["a cat", "a cat 😂", "😂 cat"]
UNKNOWN = ["😂", "😂 🎬😂", "\u200b", "\x01", "[UNK]"]
CORPUS = ["a cat and a dog", "the dog", "two cats"] * 20


def wordpiece() -> Any:
    return AutoTokenizer.from_pretrained(locate_text_model("all-MiniLM-L6-v2").folder)


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.BertNormalizer()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"]
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=["[UNK]"]))
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<s>", "<unk>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def fast(tokenizer: Tokenizer, unknown: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unknown)


@pytest.mark.parametrize(
    "build",
    [wordpiece, unigram, lambda: fast(unigram(), "<unk>"), words, lambda: fast(words(), "[UNK]")],
    ids=["WordPiece", "Unigram", "Unigram of transformers", "words", "words of transformers"],
)
def test_texts_without_a_known_word_are_found(build: Callable[[], Any]) -> None:
    tokenizer = build()
    assert unknown_only(tokenizer, KNOWN).tolist() == [False, False, False]
    # The last text is left out: [UNK] is the unknown token of only some of these tokenisers.
    assert unknown_only(tokenizer, UNKNOWN[:4]).tolist() == [True] * 4
    assert unknown_only(tokenizer, []).tolist() == []


@pytest.mark.parametrize(
    "build",
    [byte_level, lambda: fast(byte_level(), "<unk>")],
    ids=["tokenizers", "transformers"],
)
def test_byte_level_tokenisers_know_every_text(build: Callable[[], Any]) -> None:
    assert not unknown_only(build(), KNOWN + UNKNOWN).any()


@pytest.mark.parametrize("build", [words, lambda: fast(words(), "[UNK]")])
def test_a_long_search_logs_its_progress_and_finds_the_same(
    build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(tokens, "_BATCH", 2)
    monkeypatch.setattr(tokens, "Progress", functools.partial(Progress, every_seconds=0))
    texts = ["a cat", "😂", "the dog", "🎬 🎬", "🎬 cat", "two cats"]
    unknown = [False, True, False, True, False, False]
    assert unknown_only(build(), texts).tolist() == unknown
    # The texts of two unknown first words are searched to their end.
    assert [line.rpartition(", ")[0].rpartition(", ")[0] for line in caplog.messages] == [
        "looking for words that the encoder knows: 2 of 5 words",
        "looking for words that the encoder knows: 4 of 5 words",
        "looking for words that the encoder knows: 2 of 3 texts",
    ]
    assert all(line.endswith(" s left") for line in caplog.messages)


TITLES = ["A cat", *UNKNOWN, "Soup 😂", None]
MINILM = TextEncoderConfig(precision="float32")


def test_titles_of_unknown_words_have_no_vector_and_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = VectorStore(tmp_path)
    table = encode_titles(item_table(TITLES), MINILM, "cpu", store).table
    assert table.present.tolist() == [True, *[False] * len(UNKNOWN), True, False]
    assert not table.vectors[~table.present].any()
    counts = table.provenance["counts"]
    assert (counts["unknown_words"], counts["missing"], counts["encoded"]) == (5, 1, 2)
    assert table.provenance["unknown_titles"][0] == {"item_id": 5, "text": "😂"}
    (line,) = [line for line in caplog.messages if "knows no word" in line]
    assert line.startswith("5 of 7 texts are masked")
    assert "'😂' (item 5)" in line
    # The titles get no vector either when the vectors of the others come from the store.
    again = encode_titles(item_table(TITLES), MINILM, "cpu", store).table
    assert again.content_hash() == table.content_hash()
    assert again.provenance["counts"]["encoded"] == 0
    assert again.provenance["counts"]["unknown_words"] == 5


def test_a_title_of_emoji_is_encoded_by_a_tower_that_knows_every_byte(tmp_path: Path) -> None:
    clip = TextEncoderConfig(source="open_clip", model="tiny-clip", precision="float32")
    table = encode_titles(item_table(TITLES), clip, "cpu", VectorStore(tmp_path)).table
    assert table.present.tolist() == [True] * 7 + [False]
    assert table.provenance["counts"]["unknown_words"] == 0
