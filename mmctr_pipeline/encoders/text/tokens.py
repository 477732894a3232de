"""Find texts that a tokeniser cannot tell apart: without tokens, or of unknown tokens only."""

import itertools
import json
from typing import Any

import numpy as np

# SentencePiece's mark of a blank, which comes before the first word of each text.
_BLANK = "\u2581"


def unknown_only(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Return which texts have no token except unknown ones, `(n,) bool`.

    `tokenizer` is one of transformers or of tokenizers; byte-level ones know every text. Any other
    kind is trusted to know every text too.
    """
    if not hasattr(tokenizer, "encode_batch") and not hasattr(tokenizer, "unk_token_id"):
        return np.zeros(len(texts), dtype=bool)
    # Most texts are settled by their first word, and many begin alike.
    firsts = [(text.split(maxsplit=1) or [text])[0] for text in texts]
    distinct = sorted(set(firsts))
    doubtful = set(itertools.compress(distinct, _silent(tokenizer, distinct)))
    rows = [row for row, word in enumerate(firsts) if word in doubtful]
    unknown = np.zeros(len(texts), dtype=bool)
    unknown[rows] = _silent(tokenizer, [texts[row] for row in rows])
    return unknown


def _silent(tokenizer: Any, texts: list[str]) -> list[bool]:
    """Tokenise each text, and return whether it has no token except unknown ones."""
    # Tokenisers reject an empty list.
    if not texts:
        return []
    if hasattr(tokenizer, "encode_batch"):
        model = json.loads(tokenizer.to_str())["model"]
        unknown = model.get("unk_id", tokenizer.token_to_id(model.get("unk_token") or ""))
        silent = {unknown, tokenizer.token_to_id(_BLANK)}
        batch = tokenizer.encode_batch(texts, add_special_tokens=False)
        tokens = [encoding.ids for encoding in batch]
    else:
        silent = {tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids(_BLANK)}
        tokens = tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    return [silent.issuperset(ids) for ids in tokens]
