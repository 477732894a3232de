"""Find texts without any token that the tokeniser knows."""

import itertools
import json
from typing import Any

import numpy as np

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
    unknown_words = set(itertools.compress(distinct, _all_unknown(tokenizer, distinct)))
    rows = [row for row, word in enumerate(first_words) if word in unknown_words]
    unknown = np.zeros(len(texts), dtype=bool)
    unknown[rows] = _all_unknown(tokenizer, [texts[row] for row in rows])
    return unknown


def _all_unknown(tokenizer: Any, texts: list[str]) -> list[bool]:
    """Tokenise each text, and return whether it has no token except unknown ones."""
    # Tokenisers reject an empty list.
    if not texts:
        return []
    if hasattr(tokenizer, "encode_batch"):
        model = json.loads(tokenizer.to_str())["model"]
        unknown = model.get("unk_id", tokenizer.token_to_id(model.get("unk_token") or ""))
        meaningless = {unknown, tokenizer.token_to_id(_BLANK)}
        batch = tokenizer.encode_batch(texts, add_special_tokens=False)
        tokens = [encoding.ids for encoding in batch]
    else:
        meaningless = {tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids(_BLANK)}
        tokens = tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    return [meaningless.issuperset(ids) for ids in tokens]
