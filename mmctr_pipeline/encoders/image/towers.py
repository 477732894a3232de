"""The image tower of an open_clip model, rebuilt to run fast: same weights, same vectors.

CLIP's ResNets (Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", 2021) get their batch normalisation folded into the convolutions, and an attention
pooling that asks for its one output alone. In bfloat16 their stem stays in float32: it is 6 % of
the operations, and rounding there is what the layers above amplify.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from open_clip.modified_resnet import AttentionPool2d, Bottleneck, ModifiedResNet
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

Tower = Callable[[torch.Tensor], torch.Tensor]
"""From pixels `(B, 3, H, W) float32`, channels last, to vectors `(B, D) float32`."""


def fast_tower(visual: nn.Module, dtype: torch.dtype) -> Tower:
    """Return the tower as a function in `dtype`; `visual` (float32) is left as it is."""
    if isinstance(visual, ModifiedResNet):
        return _FoldedResNet(visual, dtype)
    tower = visual if dtype == torch.float32 else copy.deepcopy(visual).to(dtype)
    return lambda pixels_BCHW: _vectors(tower(pixels_BCHW.to(dtype)))


def plain_tower(visual: nn.Module) -> Tower:
    """Return the tower as open_clip computes it, in float32."""
    return lambda pixels_BCHW: _vectors(visual(pixels_BCHW))


class _FoldedResNet:
    def __init__(self, visual: ModifiedResNet, dtype: torch.dtype) -> None:
        folded: Any = copy.deepcopy(visual).eval()
        _fold(folded)
        folded.to(memory_format=torch.channels_last)
        self._stem = folded.stem
        self._layers = nn.Sequential(folded.layer1, folded.layer2, folded.layer3, folded.layer4)
        self._layers.to(dtype)
        self._pool = folded.attnpool.to(dtype)
        self._dtype = dtype

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        grid_BCHW = self._layers(self._stem(pixels_BCHW).to(self._dtype))
        return _pooled(self._pool, grid_BCHW).float()


def _fold(module: nn.Module) -> None:
    """Fold each batch normalisation into the convolution before it, in place."""
    if isinstance(module, ModifiedResNet | Bottleneck):
        for number in ("1", "2", "3"):
            convolution, norm = getattr(module, f"conv{number}"), getattr(module, f"bn{number}")
            setattr(module, f"conv{number}", fuse_conv_bn_eval(convolution, norm))
            setattr(module, f"bn{number}", nn.Identity())
    if isinstance(module, Bottleneck) and module.downsample is not None:
        pool, convolution, norm = module.downsample
        module.downsample = nn.Sequential(pool, fuse_conv_bn_eval(convolution, norm))
    for child in module.children():
        _fold(child)


def _pooled(pool: AttentionPool2d, grid_BCHW: torch.Tensor) -> torch.Tensor:
    """Return what `AttentionPool2d` does, `(B, D)`, without its other outputs.

    The query is the mean of the grid alone; open_clip computes an output for each place of the
    grid, and keeps the first.
    """
    x_TBC = grid_BCHW.flatten(2).permute(2, 0, 1)
    x_TBC = torch.cat([x_TBC.mean(dim=0, keepdim=True), x_TBC])
    x_TBC = x_TBC + pool.positional_embedding[:, None, :].to(x_TBC.dtype)
    _, batch, width = x_TBC.shape
    shape = (-1, batch, pool.num_heads, width // pool.num_heads)
    query, keys, values = (
        projection(x).view(shape).permute(1, 2, 0, 3)
        for projection, x in ((pool.q_proj, x_TBC[:1]), (pool.k_proj, x_TBC), (pool.v_proj, x_TBC))
    )
    y_BHTC = functional.scaled_dot_product_attention(query, keys, values)
    return pool.c_proj(y_BHTC.reshape(batch, width))


def _vectors(output: Any) -> torch.Tensor:
    # Towers made for captioning return their tokens as well.
    vectors = output[0] if isinstance(output, tuple) else output
    return vectors.float()
