"""BERT's forward pass with fewer and larger products, for encoding on whatever device.

The model that transformers loads runs as it is, too; this one computes the same (Devlin et al.,
"BERT: Pre-training of Deep Bidirectional Transformers", 2019) in less time
(`benchmarks/encode_text.py` measures it): one product instead of three before the attention, no
mask where a batch has no padding, and weights that are laid out once for oneDNN, instead of at each
product.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers import BertModel

Affine = Callable[[torch.Tensor], torch.Tensor]
"""From `(..., D)` to `(..., E)`: a product with a weight, plus a bias."""


@dataclasses.dataclass(frozen=True)
class _Layer:
    qkv: Affine
    attended: Affine
    attended_norm: tuple[torch.Tensor, torch.Tensor]
    wide: Affine
    narrow: Affine
    norm: tuple[torch.Tensor, torch.Tensor]


class CompactBert:
    """The encoder part of a `BertModel`, its weights copied in `dtype`.

    The embeddings are summed and normalised in float32, as they cost nothing.
    """

    def __init__(self, model: BertModel, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._heads = model.config.num_attention_heads
        self._epsilon = model.config.layer_norm_eps
        embeddings = model.embeddings
        self._words = embeddings.word_embeddings.weight.detach()
        # Every token of a single text is of type 0.
        self._places = (
            embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        ).detach()
        self._norm = _pair(embeddings.LayerNorm, torch.float32)
        self._layers = [self._layer(layer) for layer in model.encoder.layer]

    @staticmethod
    def fits(model: Any) -> bool:
        """Return whether a transformers model is one that this class computes like."""
        if type(model) is not BertModel:
            return False
        config = model.config
        return (
            config.hidden_act == "gelu"
            and getattr(config, "position_embedding_type", "absolute") == "absolute"
            and not config.is_decoder
        )

    def __call__(self, token_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """Return the last hidden state, `(B, L, D)` in the dtype of the weights.

        `token_BL` and `mask_BL` (1 for a token, 0 for padding) are `(B, L) int64`. What comes out
        at padding is of no use.
        """
        length = token_BL.shape[1]
        x_BLD = self._words[token_BL] + self._places[:length]
        x_BLD = self._normalised(x_BLD, self._norm).to(self._dtype)
        attended = None if bool(mask_BL.all()) else mask_BL[:, None, None, :].bool()
        for layer in self._layers:
            y_BLD = self._attention(x_BLD, layer, attended)
            x_BLD = self._normalised(x_BLD + layer.attended(y_BLD), layer.attended_norm)
            y_BLF = functional.gelu(layer.wide(x_BLD))
            x_BLD = self._normalised(x_BLD + layer.narrow(y_BLF), layer.norm)
        return x_BLD

    def _attention(
        self, x_BLD: torch.Tensor, layer: _Layer, mask_B11L: torch.Tensor | None
    ) -> torch.Tensor:
        batch, length, width = x_BLD.shape
        qkv = layer.qkv(x_BLD).view(batch, length, 3, self._heads, width // self._heads)
        q_BHLC, k_BHLC, v_BHLC = qkv.permute(2, 0, 3, 1, 4)
        y_BHLC = functional.scaled_dot_product_attention(
            q_BHLC, k_BHLC, v_BHLC, attn_mask=mask_B11L
        )
        return y_BHLC.transpose(1, 2).reshape(batch, length, width)

    def _normalised(
        self, x: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        return functional.layer_norm(x, (x.shape[-1],), *weights, eps=self._epsilon)

    def _layer(self, layer: Any) -> _Layer:
        attention = layer.attention
        three = [_pair(getattr(attention.self, name)) for name in ("query", "key", "value")]
        weights, biases = zip(*three, strict=True)
        return _Layer(
            qkv=_affine(torch.cat(weights), torch.cat(biases), self._dtype),
            attended=_affine(*_pair(attention.output.dense), self._dtype),
            attended_norm=_pair(attention.output.LayerNorm, self._dtype),
            wide=_affine(*_pair(layer.intermediate.dense), self._dtype),
            narrow=_affine(*_pair(layer.output.dense), self._dtype),
            norm=_pair(layer.output.LayerNorm, self._dtype),
        )


def _pair(
    module: torch.nn.Module, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    return module.weight.detach().to(dtype), module.bias.detach().to(dtype)  # type: ignore[operator]


def _affine(weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> Affine:
    weight, bias = weight.to(dtype), bias.to(dtype)
    # What torch.compile uses; without it the weight is laid out anew in front of each product.
    ready = all(hasattr(torch.ops.mkldnn, name) for name in (_LAY_OUT, _MULTIPLY))
    if dtype != torch.bfloat16 or weight.device.type != "cpu" or not ready:
        return lambda x: functional.linear(x, weight, bias)
    laid_out = getattr(torch.ops.mkldnn, _LAY_OUT)(weight)
    multiply = getattr(torch.ops.mkldnn, _MULTIPLY)
    return lambda x: multiply(x, laid_out, bias, "none", [], "")


_LAY_OUT, _MULTIPLY = "_reorder_linear_weight", "_linear_pointwise"
