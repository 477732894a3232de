"""Text encoders with one interface: sentence-transformers models, open_clip towers, own code."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mmctr_pipeline.encoders.locate import LocatedTextModel
from mmctr_pipeline.encoders.own import OwnEncoder
from mmctr_pipeline.encoders.text.bert import CompactBert
from mmctr_pipeline.encoders.text.loading import load_sentence_model
from mmctr_pipeline.encoders.text.tokens import unknown_only
from mmctr_pipeline.files.progress import Advance, Progress

logger = logging.getLogger(__name__)

_OWN_BATCH = 256


class SentenceModel:
    """A sentence-transformers model; a BERT runs through `CompactBert`.

    A model without a transformer (static embeddings) is run by the library, in float32, as bfloat16
    would gain nothing. Such a model does not truncate texts, and its words are counted as tokens.

    `dim` is the width of the vectors. `longest` is the limit in tokens, which include those of
    `prompt`, the text before each text.
    """

    def __init__(
        self, located: LocatedTextModel, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self._model = load_sentence_model(located, device)
        self.prompt: str = self._model.prompts.get(self._model.default_prompt_name or "", "") or ""
        self._device = torch.device(device)
        self.dim = int(self._model.get_embedding_dimension() or 0)
        first, *self._rest = list(self._model)
        bert = getattr(first, "auto_model", None)
        self._is_static = bert is None
        self.longest = 2**31 if self._is_static else int(self._model.max_seq_length or 512)
        if CompactBert.fits(bert):
            compact = CompactBert(bert, dtype)
            self._first: Callable[[dict[str, Any]], dict[str, Any]] = lambda features: {
                **features,
                "token_embeddings": compact(features["input_ids"], features["attention_mask"]),
            }
        else:
            is_unchanged = self._is_static or dtype == torch.float32
            self._first = first if is_unchanged else copy.deepcopy(first).to(dtype)

    def token_counts(self, texts: list[str]) -> np.ndarray:
        """Return the number of tokens of each text before truncation, `(n,) int64`."""
        # The tokeniser rejects an empty list.
        if self._is_static or not texts:
            return np.array([len(text.split()) for text in texts], dtype=np.int64)
        tokens = self._model.tokenizer(
            [self.prompt + text for text in texts], truncation=False, verbose=False
        )
        return np.array([len(ids) for ids in tokens["input_ids"]], dtype=np.int64)

    def unknown(self, texts: list[str]) -> np.ndarray:
        """Return which texts consist only of words unknown to the tokeniser, `(n,) bool`."""
        return unknown_only(getattr(self._model[0], "tokenizer", None), texts)

    def encode(
        self, texts: list[str], batch_tokens: int, advance: Advance | None = None
    ) -> np.ndarray:
        """Return `(n, D) float32` in the order of `texts`.

        Texts of similar length share a batch of at most `batch_tokens` tokens including padding.
        `advance` is called with the number of texts after each batch.
        """
        if self._is_static:
            return self.encode_by_library(texts)
        lengths = np.minimum(self.token_counts(texts), self.longest)
        return _encode_by_length(
            lengths,
            batch_tokens,
            self.dim,
            lambda rows: self._forward([texts[row] for row in rows]),
            advance,
        )

    def encode_by_library(self, texts: list[str]) -> np.ndarray:
        """Return what `SentenceTransformer.encode` returns, in float32."""
        return self._model.encode(texts, batch_size=32, show_progress_bar=False)

    def _forward(self, texts: list[str]) -> torch.Tensor:
        features = {
            name: value.to(self._device) if isinstance(value, torch.Tensor) else value
            for name, value in self._model.preprocess(texts, prompt=self.prompt).items()
        }
        features = self._first(features)
        # Pooling sums over tokens, and bfloat16 would round the sums.
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in self._rest:
            features = module(features)
        # A model may be saved with fewer dimensions than it computes.
        return features["sentence_embedding"][:, : self.dim]


class ClipTextModel:
    """The text tower of an open_clip model: vectors `(n, D)`, not normalised.

    Padding beyond the longest text of a batch is cut where it cannot affect the vectors: in towers
    with causal attention that read the vector at the end-of-text token.

    `dim` is the width of the vectors, `longest` the limit in tokens.

    Parameters
    ----------
    model
        The text tower, in float32.
    tokenize
        open_clip's tokeniser of the model.
    device
        Where to encode.
    dtype
        dtype of the matrix products.
    """

    prompt = ""
    """Text before each text: none."""

    def __init__(
        self,
        model: Any,
        tokenize: Callable[..., torch.Tensor],
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self._library = model
        self._tokenize = tokenize
        self._device = torch.device(device)
        self._model = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self._can_cut = (
            getattr(model, "attn_mask", None) is not None
            and getattr(model, "text_pool_type", None) == "argmax"
            and hasattr(model, "text_projection")
        )
        self.dim = self.encode_by_library(["a"]).shape[1]
        self.longest = int(getattr(tokenize, "context_length", 77) or 77)

    def token_counts(self, texts: list[str]) -> np.ndarray:
        """Return the number of tokens of each text, `(n,) int64`, at most `longest + 1`.

        `longest + 1` means that the text does not fit into the tower.
        """
        return self._used(self._tokenize(texts, context_length=self.longest + 1))

    def unknown(self, texts: list[str]) -> np.ndarray:
        """Return which texts consist only of words unknown to the tokeniser, `(n,) bool`."""
        hub_tokenizer = getattr(self._tokenize, "tokenizer", None)
        if hub_tokenizer is None:
            return np.zeros(len(texts), dtype=bool)  # open_clip's own tokeniser knows every byte.
        return unknown_only(hub_tokenizer, texts)

    def encode(
        self, texts: list[str], batch_tokens: int, advance: Advance | None = None
    ) -> np.ndarray:
        """Return `(n, D) float32` in the order of `texts`; see `SentenceModel.encode`."""
        token_NL = self._tokenize(texts)
        lengths = self._used(token_NL) if self._can_cut else np.full(len(texts), token_NL.shape[1])

        def forward(rows: np.ndarray) -> torch.Tensor:
            token_BL = token_NL[torch.from_numpy(rows), : int(lengths[rows].max())]
            return self._forward(token_BL.to(self._device))

        return _encode_by_length(lengths, batch_tokens, self.dim, forward, advance)

    def encode_by_library(self, texts: list[str]) -> np.ndarray:
        """Return what the model's own `encode_text` returns, in float32."""
        with torch.inference_mode():
            tokens = self._tokenize(texts).to(self._device)
            return self._library.encode_text(tokens).float().cpu().numpy()

    def _used(self, token_NL: torch.Tensor) -> np.ndarray:
        """Return the length of each row without the padding at its end, `(N,) int64`.

        The padding token may also occur inside a text: 0 is an exclamation mark too.
        """
        hub_tokenizer = getattr(self._tokenize, "tokenizer", None)
        padding = getattr(hub_tokenizer, "pad_token_id", None) or 0
        position_L = torch.arange(1, token_NL.shape[1] + 1)
        return ((token_NL != padding) * position_L).amax(dim=1).numpy()

    def _forward(self, token_BL: torch.Tensor) -> torch.Tensor:
        model = self._model
        if not self._can_cut:
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


class OwnTextModel:
    """A text encoder of the user's own, in float32. Its words are counted as tokens.

    `dim` is the width of the vectors. Texts are not truncated.
    """

    prompt = ""
    """Text before each text: none."""
    longest = 2**31
    """Limit in tokens: none."""

    def __init__(self, own: OwnEncoder) -> None:
        self._own = own
        self.dim = self.encode(["a"], 0).shape[1]

    def token_counts(self, texts: list[str]) -> np.ndarray:
        """Return the number of words of each text, `(n,) int64`."""
        return np.array([len(text.split()) for text in texts], dtype=np.int64)

    def unknown(self, texts: list[str]) -> np.ndarray:
        """Return which texts the encoder knows nothing of, `(n,) bool`."""
        progress = Progress(logger, "asking the encoder which texts it knows", len(texts), "texts")
        unknown = np.zeros(len(texts), dtype=bool)
        for begin in range(0, len(texts), _OWN_BATCH):
            batch = texts[begin : begin + _OWN_BATCH]
            unknown[begin : begin + len(batch)] = self._own.unknown(batch)
            progress.advance(len(batch))
        return unknown

    def encode(
        self, texts: list[str], batch_tokens: int, advance: Advance | None = None
    ) -> np.ndarray:
        """Return `(n, D) float32` in the order of `texts`; see `SentenceModel.encode`.

        A batch has at most 256 texts, whatever `batch_tokens`.
        """
        vectors = []
        for begin in range(0, len(texts), _OWN_BATCH):
            vectors.append(self._own.encode(texts[begin : begin + _OWN_BATCH]))
            if advance is not None:
                advance(len(vectors[-1]))
        return np.concatenate(vectors)

    def encode_by_library(self, texts: list[str]) -> np.ndarray:
        """Return the same as `encode`: there is no other number format to compare with."""
        return self.encode(texts, 0)


TextModel = SentenceModel | ClipTextModel | OwnTextModel


def batches_by_length(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Return positions by descending length, in batches of at most `batch_tokens` with padding.

    `lengths` is `(n,)`. A batch has at least one row. The longest come first, so that a lack of
    memory shows in the first batch.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, begin = [], 0
    while begin < len(order):
        n_rows = max(1, batch_tokens // max(1, int(lengths[order[begin]])))
        batches.append(order[begin : begin + n_rows])
        begin += n_rows
    return batches


def _encode_by_length(
    lengths: np.ndarray,
    batch_tokens: int,
    dim: int,
    forward: Callable[[np.ndarray], torch.Tensor],
    advance: Advance | None,
) -> np.ndarray:
    """Call `forward` for the batches of `batches_by_length`; return all vectors, `(n, dim)`."""
    vectors = np.empty((len(lengths), dim), dtype=np.float32)
    with torch.inference_mode():
        for rows in batches_by_length(lengths, batch_tokens):
            vectors[rows] = forward(rows).float().cpu().numpy()
            if advance is not None:
                advance(len(rows))
    return vectors
