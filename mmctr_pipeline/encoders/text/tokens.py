"""Find texts that a tokeniser cannot tell apart: without tokens, or of unknown tokens only."""

import json
from typing import Any

import numpy as np

# SentencePiece's mark of a blank, which comes before the first word of each text.
_BLANK = "\u2581"


def unknown_only(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Return which texts have no token except unknown ones, `(n,) bool`.

    `tokenizer` is one of transformers or of tokenizers. Byte-level tokenisers know every text.
    """
    # Tokenisers reject an empty list.
    if not texts:
        return np.zeros(0, dtype=bool)
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
    return np.array([silent.issuperset(ids) for ids in tokens], dtype=bool)
