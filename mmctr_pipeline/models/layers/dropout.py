"""Dropout whose random numbers do not cost more than the layer before it."""

from typing import Any

import numpy as np
import torch
from torch import nn

_PARTS = 1 << 15
"""Number of values that a draw of 15 bits has; rates are rounded to multiples of 1 / 32,768."""

_INT_BY_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer type by number of bytes."""


class Dropout(nn.Dropout):
    """`nn.Dropout` that, on the CPU, cuts each 64-bit random number into four draws.

    The meaning is the same: in training each value is zero with probability `p`, and the others are
    scaled to keep the mean (Srivastava et al. 2014, Journal of Machine Learning Research 15). Draws
    come from numpy's SFC64, which each call seeds from torch's global generator. On other devices
    it is torch's own dropout.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return a tensor like `input`."""
        if input.device.type != "cpu" or not self.training or self.p in (0, 1):
            return super().forward(input)
        return _Dropout.apply(input, self.p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rate: float) -> torch.Tensor:
        n_dropped = round(rate * _PARTS)
        mask = _mask(values.shape, n_dropped, _INT_BY_SIZE[values.element_size()])
        ctx.save_for_backward(mask)
        ctx.scale = _PARTS / max(_PARTS - n_dropped, 1)
        return _masked(values, mask, ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (mask,) = ctx.saved_tensors
        return _masked(grad, mask, ctx.scale), None


def _mask(shape: torch.Size, n_dropped: int, dtype: torch.dtype) -> torch.Tensor:
    """Return integers of all zero bits, with probability `n_dropped / _PARTS`, or all one bits."""
    n_values = shape.numel()
    seed = int(torch.empty((), dtype=torch.int64).random_())
    draws = np.random.SFC64(seed).random_raw(-(-n_values // 4)).view(np.int16)[:n_values]
    # A draw minus `n_dropped` is negative exactly if its value is dropped. Shifting copies the sign
    # to all bits. Comparing and multiplying would take longer.
    below = torch.from_numpy(draws).bitwise_and_(_PARTS - 1).sub_(n_dropped)
    return below.bitwise_right_shift_(15).bitwise_not_().to(dtype).view(shape)


def _masked(values: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    masked = values.contiguous().view(mask.dtype).bitwise_and(mask)
    return masked.view(values.dtype).mul_(scale)
