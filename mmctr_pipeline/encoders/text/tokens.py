"""Find texts without any token that the tokeniser knows."""

import itertools
import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from mmctr_pipeline.files.progress import Progress

logger = logging.getLogger(__name__)

# Enough for all cores, and so few that a slow tokeniser reports its progress.
_BATCH = 8192

# SentencePiece's sign for a blank, which comes before the first word of each text.
_BLANK = "\u2581"


def unknown_only(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Return which texts have no token except unknown ones, `(n,) bool`.

    `tokenizer` comes from the library transformers or tokenizers. A tokeniser of another library is
    assumed to know every text, as byte-level tokenisers do.
    """
    if not hasattr(tokenizer, "encode_batch") and not hasattr(tokenizer, "unk_token_id"):
        return np.zeros(len(texts), dtype=bool)
    # The first word of most texts is known, and many texts begin with the same word.
    first_words = [(text.split(maxsplit=1) or [text])[0] for text in texts]
    distinct = sorted(set(first_words))
    unknown_words = set(itertools.compress(distinct, _all_unknown(tokenizer, distinct, "words")))
    rows = [row for row, word in enumerate(first_words) if word in unknown_words]
    unknown = np.zeros(len(texts), dtype=bool)
    unknown[rows] = _all_unknown(tokenizer, [texts[row] for row in rows], "texts")
    return unknown


def _all_unknown(tokenizer: Any, texts: list[str], unit: str) -> list[bool]:
    """Tokenise each text, and return whether it has no token except unknown ones."""
    tokenize, meaningless = _tokenization(tokenizer)
    progress = Progress(logger, "looking for words that the encoder knows", len(texts), unit)
    is_unknown: list[bool] = []
    for begin in range(0, len(texts), _BATCH):
        batch = texts[begin : begin + _BATCH]
        is_unknown += [meaningless.issuperset(ids) for ids in tokenize(batch)]
        progress.advance(len(batch))
    return is_unknown


def _tokenization(tokenizer: Any) -> tuple[Callable[[list[str]], list[list[int]]], set[int | None]]:
    """Return a function from texts to the ids of their tokens, and the ids of unknown tokens."""

    def by_tokenizers(texts: list[str]) -> list[list[int]]:
        return [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]

    def by_transformers(texts: list[str]) -> list[list[int]]:
        return tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]

    if hasattr(tokenizer, "encode_batch"):
        model = json.loads(tokenizer.to_str())["model"]
        unknown = model.get("unk_id", tokenizer.token_to_id(model.get("unk_token") or ""))
        return by_tokenizers, {unknown, tokenizer.token_to_id(_BLANK)}
    blank = tokenizer.convert_tokens_to_ids(_BLANK)
    return by_transformers, {tokenizer.unk_token_id, blank}
