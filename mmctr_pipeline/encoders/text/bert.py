"""BERT's forward pass with fewer and larger products.

Computes the same as transformers' model (Devlin et al., "BERT: Pre-training of Deep Bidirectional
Transformers", 2019) in less time (`benchmarks/encode_text.py` measures it): one product instead of
three before the attention, no mask for a batch without padding, and weights rearranged for oneDNN
once instead of for each product (`cpu_kernels`).
"""

from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn import functional
from transformers import BertModel

from mmctr_pipeline.encoders.cpu_kernels import affine


class CompactBert:
    """The encoder part of a `BertModel`, with its weights copied in `dtype`.

    The embeddings are summed and normalised in float32, which costs almost nothing.
    """

    def __init__(self, model: BertModel, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._epsilon = model.config.layer_norm_eps
        embeddings = model.embeddings
        self._words = embeddings.word_embeddings.weight.detach()
        # All tokens of a single text have type 0.
        self._positions = (
            embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        ).detach()
        self._norm = _parameters(embeddings.LayerNorm, torch.float32)
        heads = model.config.num_attention_heads
        self._layers = [_Layer(layer, dtype, heads, self._epsilon) for layer in model.encoder.layer]

    @staticmethod
    def fits(model: Any) -> TypeGuard[BertModel]:
        """Return whether this class computes the same as a transformers model."""
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

        `token_BL` and `mask_BL` (1 for a token, 0 for padding) are `(B, L) int64`. The output at
        padding is meaningless.
        """
        x_BLD = self._words[token_BL] + self._positions[: token_BL.shape[1]]
        x_BLD = _normalised(x_BLD, self._norm, self._epsilon).to(self._dtype)
        attended_B11L = None if bool(mask_BL.all()) else mask_BL[:, None, None, :].bool()
        for layer in self._layers:
            x_BLD = layer(x_BLD, attended_B11L)
        return x_BLD


class _Layer:
    """Self-attention and feed-forward, each followed by a residual sum and a normalisation."""

    def __init__(self, layer: Any, dtype: torch.dtype, heads: int, epsilon: float) -> None:
        attention = layer.attention
        projections = [attention.self.query, attention.self.key, attention.self.value]
        weights, biases = zip(*(_parameters(module, dtype) for module in projections), strict=True)
        self._qkv = affine(torch.cat(weights), torch.cat(biases))
        self._attended = affine(*_parameters(attention.output.dense, dtype))
        self._attended_norm = _parameters(attention.output.LayerNorm, dtype)
        self._wide = affine(*_parameters(layer.intermediate.dense, dtype))
        self._narrow = affine(*_parameters(layer.output.dense, dtype))
        self._norm = _parameters(layer.output.LayerNorm, dtype)
        self._heads, self._epsilon = heads, epsilon

    def __call__(self, x_BLD: torch.Tensor, mask_B11L: torch.Tensor | None) -> torch.Tensor:
        batch, length, width = x_BLD.shape
        qkv = self._qkv(x_BLD).view(batch, length, 3, self._heads, width // self._heads)
        q_BHLC, k_BHLC, v_BHLC = qkv.permute(2, 0, 3, 1, 4)
        y_BHLC = functional.scaled_dot_product_attention(
            q_BHLC, k_BHLC, v_BHLC, attn_mask=mask_B11L
        )
        y_BLD = self._attended(y_BHLC.transpose(1, 2).reshape(batch, length, width))
        x_BLD = _normalised(x_BLD + y_BLD, self._attended_norm, self._epsilon)
        y_BLD = self._narrow(functional.gelu(self._wide(x_BLD)))
        return _normalised(x_BLD + y_BLD, self._norm, self._epsilon)


def _parameters(
    module: nn.Linear | nn.LayerNorm, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of a module in `dtype`."""
    return module.weight.detach().to(dtype), module.bias.detach().to(dtype)


def _normalised(
    x: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor], epsilon: float
) -> torch.Tensor:
    return functional.layer_norm(x, (x.shape[-1],), *weights, eps=epsilon)
