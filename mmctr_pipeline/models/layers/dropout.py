"""Dropout whose random numbers do not cost more than the layer they follow."""

from typing import Any

import torch
from torch import nn

_PARTS = 1 << 16
"""Values of a 16-bit draw; a rate is rounded to a multiple of 1 / 65,536."""


class Dropout(nn.Dropout):
    """`nn.Dropout` that, on the CPU, cuts each 64-bit random number into four 16-bit draws.

    Same meaning: in training each value is zero with probability `p`, and the others are scaled so
    that the mean stays; draws come from torch's global generator. On other devices it is torch's
    own. (Srivastava et al. 2014, Journal of Machine Learning Research 15.)
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return a tensor like `input`."""
        if input.device.type != "cpu" or not self.training or self.p == 0:
            return super().forward(input)
        dropped: torch.Tensor = _Dropout.apply(input, self.p)
        return dropped


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rate: float) -> torch.Tensor:
        n_dropped = min(max(round(rate * _PARTS), 1), _PARTS - 1)
        n_values = values.numel()
        bits = torch.empty(-(-n_values // 4), dtype=torch.int64).random_(-(2**63), None)
        draws = bits.view(torch.int16)[:n_values].view(values.shape)
        # Zeros and scales in the values' own format: products of unlike formats are slower.
        scale = (draws >= n_dropped - _PARTS // 2).to(values.dtype)
        scale.mul_(_PARTS / (_PARTS - n_dropped))
        ctx.save_for_backward(scale)
        return values * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (scale,) = ctx.saved_tensors
        return grad * scale, None
