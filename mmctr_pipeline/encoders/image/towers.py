"""The image tower of an open_clip model, rebuilt to run fast: same vectors up to rounding.

In CLIP's ResNets (Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", 2021) the batch normalisation is folded into the convolutions, and the attention
pooling computes only the one output that is used. In bfloat16 their stem stays in float32: it is
6 % of the operations, and the layers above amplify its rounding.
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
"""Maps pixels `(B, 3, H, W) float32`, channels last, to vectors `(B, D) float32`."""


def fast_tower(visual: nn.Module, dtype: torch.dtype) -> Tower:
    """Return the tower as a function in `dtype`; `visual` (float32) is not changed."""
    if isinstance(visual, ModifiedResNet):
        return _folded_resnet(visual, dtype)
    tower = visual if dtype == torch.float32 else copy.deepcopy(visual).to(dtype)
    return lambda pixels_BCHW: _vectors(tower(pixels_BCHW.to(dtype)))


def plain_tower(visual: nn.Module) -> Tower:
    """Return the tower as open_clip computes it, in float32."""
    return lambda pixels_BCHW: _vectors(visual(pixels_BCHW))


def _folded_resnet(visual: ModifiedResNet, dtype: torch.dtype) -> Tower:
    folded: Any = copy.deepcopy(visual).eval()
    _fold(folded)
    folded.to(memory_format=torch.channels_last)
    layers = nn.Sequential(folded.layer1, folded.layer2, folded.layer3, folded.layer4).to(dtype)
    pool = folded.attnpool.to(dtype)
    return lambda pixels_BCHW: _pooled(pool, layers(folded.stem(pixels_BCHW).to(dtype))).float()


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
    """Return the output of `AttentionPool2d`, `(B, D)`.

    Only the mean of the grid is a query here; open_clip also computes an output for each position
    of the grid, and uses only the first output.
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
    # Towers of captioning models also return their tokens.
    vectors = output[0] if isinstance(output, tuple) else output
    return vectors.float()
