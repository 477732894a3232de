"""Text encoders with one face: sentence-transformers models, and the text towers of open_clip."""

import copy
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from mmctr_pipeline.encoders.sources import LocatedTextModel
from mmctr_pipeline.encoders.text.bert import CompactBert


class TextModel(Protocol):
    """What encoding asks of a model: `dim`, its width, and `longest`, its limit in tokens."""

    dim: int
    longest: int

    def token_counts(self, texts: list[str]) -> np.ndarray:
        """Return the tokens of each text, `(n,) int64`, before anything is cut off."""

    def encode(self, texts: list[str], batch_tokens: int) -> np.ndarray:
        """Return `(n, D) float32` in the order of `texts`."""

    def encode_plainly(self, texts: list[str]) -> np.ndarray:
        """Return the same as the library computes it, in float32."""


class SentenceModel:
    """A sentence-transformers model; one of BERT's kind runs through `CompactBert`.

    One without a transformer (static embeddings) runs as it is, in float32: there is nothing to
    gain. Its texts have no limit, and their tokens are counted by words.
    """

    def __init__(
        self, located: LocatedTextModel, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self._model = load_sentence_transformer(located, device)
        self._prompt = self._model.prompts.get(self._model.default_prompt_name or "", "") or ""
        self._device = torch.device(device)
        self.dim = int(self._model.get_embedding_dimension() or 0)
        first, *self._rest = list(self._model)
        bert = getattr(first, "auto_model", None)
        self._is_static = bert is None
        self.longest = 2**31 if self._is_static else int(self._model.max_seq_length or 512)
        if CompactBert.fits(bert):
            compact = CompactBert(bert, dtype)  # type: ignore[arg-type]
            self._first: Callable[[dict[str, Any]], dict[str, Any]] = lambda features: {
                **features,
                "token_embeddings": compact(features["input_ids"], features["attention_mask"]),
            }
        else:
            keep = self._is_static or dtype == torch.float32
            self._first = first if keep else copy.deepcopy(first).to(dtype)

    def token_counts(self, texts: list[str]) -> np.ndarray:
        """Return the tokens of each text, `(n,) int64`, before anything is cut off."""
        # The tokeniser refuses an empty list.
        if self._is_static or not texts:
            return np.array([len(text.split()) for text in texts], dtype=np.int64)
        tokens = self._model.tokenizer(
            [self._prompt + text for text in texts], truncation=False, verbose=False
        )
        return np.array([len(ids) for ids in tokens["input_ids"]], dtype=np.int64)

    def encode(self, texts: list[str], batch_tokens: int) -> np.ndarray:
        """Return `(n, D) float32` in the order of `texts`.

        Texts of like length share a batch of at most `batch_tokens` tokens, padding included.
        """
        if self._is_static:
            return self.encode_plainly(texts)
        lengths = np.minimum(self.token_counts(texts), self.longest)
        parts, order = [], []
        with torch.inference_mode():
            for rows in batches_of_like_length(lengths, batch_tokens):
                features = self._model.preprocess([texts[row] for row in rows], prompt=self._prompt)
                features = {
                    name: value.to(self._device) if isinstance(value, torch.Tensor) else value
                    for name, value in features.items()
                }
                features = self._first(features)
                # Pooling sums over tokens; in float32 that loses nothing.
                features["token_embeddings"] = features["token_embeddings"].float()
                for module in self._rest:
                    features = module(features)
                # A model may be saved with fewer dimensions than it computes.
                vectors = features["sentence_embedding"][:, : self.dim]
                parts.append(vectors.float().cpu().numpy())
                order.append(rows)
        return in_order(parts, order)

    def encode_plainly(self, texts: list[str]) -> np.ndarray:
        """Return what `SentenceTransformer.encode` returns, in float32."""
        return self._model.encode(texts, batch_size=32, show_progress_bar=False)


class ClipTextModel:
    """The text tower of an open_clip model: vectors `(n, D)`, not normalised.

    Texts are cut after the longest of their batch where the tower allows it (causal attention that
    is read at the end-of-text token), since what follows that token cannot touch the vector.
    """

    def __init__(
        self,
        model: Any,
        tokenize: Callable[..., torch.Tensor],
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self._plain = model
        self._tokenize = tokenize
        self._device = torch.device(device)
        self._model = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self.dim = self.encode_plainly(["a"]).shape[1]
        self.longest = int(getattr(tokenize, "context_length", 77) or 77)

    def token_counts(self, texts: list[str]) -> np.ndarray:
        """Return the tokens of each text, `(n,) int64`; of what was cut off only that it was."""
        # One place more than the tower has is taken by those alone that do not fit into it.
        return self._used(self._tokenize(texts, context_length=self.longest + 1))

    def encode(self, texts: list[str], batch_tokens: int) -> np.ndarray:
        """Return `(n, D) float32` in the order of `texts`."""
        token_NL = self._tokenize(texts)
        width = token_NL.shape[1]
        lengths = self._used(token_NL) if self._can_be_cut() else np.full(len(texts), width)
        parts, order = [], []
        with torch.inference_mode():
            for rows in batches_of_like_length(lengths, batch_tokens):
                token_BL = token_NL[torch.from_numpy(rows), : int(lengths[rows].max())]
                vectors = self._forward(token_BL.to(self._device))
                parts.append(vectors.float().cpu().numpy())
                order.append(rows)
        return in_order(parts, order)

    def encode_plainly(self, texts: list[str]) -> np.ndarray:
        """Return what the model's own `encode_text` returns, in float32."""
        with torch.inference_mode():
            tokens = self._tokenize(texts).to(self._device)
            return self._plain.encode_text(tokens).float().cpu().numpy()

    def _used(self, token_NL: torch.Tensor) -> np.ndarray:
        """Return the places of each row up to the last that is no padding, `(N,) int64`.

        The token of padding may stand inside a text, too: 0 is also an exclamation mark.
        """
        hub_tokenizer = getattr(self._tokenize, "tokenizer", None)
        padding = getattr(hub_tokenizer, "pad_token_id", None) or 0
        place_L = torch.arange(1, token_NL.shape[1] + 1)
        return ((token_NL != padding) * place_L).amax(dim=1).numpy()

    def _can_be_cut(self) -> bool:
        model = self._model
        return (
            getattr(model, "attn_mask", None) is not None
            and getattr(model, "text_pool_type", None) == "argmax"
            and hasattr(model, "text_projection")
        )

    def _forward(self, token_BL: torch.Tensor) -> torch.Tensor:
        model = self._model
        if not self._can_be_cut():
            return model.encode_text(token_BL)
        length = token_BL.shape[1]
        x_BLD = model.token_embedding(token_BL) + model.positional_embedding[:length]
        x_BLD = model.transformer(x_BLD, attn_mask=model.attn_mask[:length, :length])
        end_B = token_BL.argmax(dim=-1)
        x_BD = model.ln_final(x_BLD[torch.arange(len(x_BLD), device=x_BLD.device), end_B])
        projection = model.text_projection
        if isinstance(projection, torch.nn.Linear):
            return projection(x_BD)
        return x_BD if projection is None else x_BD @ projection


def load_sentence_transformer(
    located: LocatedTextModel, device: torch.device | str
) -> SentenceTransformer:
    """Load a located model without touching the network, in float32."""
    return SentenceTransformer(
        str(located.folder),
        device=str(device),
        local_files_only=True,
        model_kwargs={"dtype": torch.float32},
    ).eval()


def batches_of_like_length(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Return positions by falling length, cut where rows times the longest exceed `batch_tokens`.

    `lengths` is `(n,)`; every position is in one batch, and a batch has one row at least. The
    longest come first, so that what does not fit into memory fails at once.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, begin = [], 0
    while begin < len(order):
        n_rows = max(1, batch_tokens // max(1, int(lengths[order[begin]])))
        batches.append(order[begin : begin + n_rows])
        begin += n_rows
    return batches


def in_order(parts: list[np.ndarray], order: list[np.ndarray]) -> np.ndarray:
    """Return the rows of `parts` at the positions that `order` says, `(n, D) float32`."""
    vectors = np.empty((sum(map(len, order)), parts[0].shape[1]), dtype=np.float32)
    for part, rows in zip(parts, order, strict=True):
        vectors[rows] = part
    return vectors
