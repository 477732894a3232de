"""Products that must not be rounded under autocast: logits, similarities, scores of a softmax."""

import torch
from torch import nn


class ExactLinear(nn.Linear):
    """`nn.Linear` that computes in its own dtype under autocast too.

    In bfloat16 the logits of many rows would be equal, and their order lost. Of a softmax's scores
    the absolute error becomes a weight's relative one, so that two digits of the weight were left.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return `(..., out)` of the layer's dtype."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def exact_dots(x_ND: torch.Tensor, y_ND: torch.Tensor) -> torch.Tensor:
    """Return the dot product of each row of one with that of the other, `(N,)`, in their dtype."""
    with torch.autocast(x_ND.device.type, enabled=False):
        return torch.linalg.vecdot(x_ND, y_ND)


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Return `values` in float32, where autocast had taken a product in a shorter format."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
