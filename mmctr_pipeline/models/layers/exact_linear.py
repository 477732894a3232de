"""A linear layer whose few outputs must not be rounded: scores before a softmax, and logits."""

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
