"""The tower of hidden layers at the end of a CTR model."""

from collections.abc import Sequence

import torch
from torch import nn

from mmctr_pipeline.models.layers.dropout import Dropout


class LogitLayer(nn.Linear):
    """A linear layer to logits that computes in its own dtype under autocast too.

    In bfloat16 the logits of many rows would be equal, and their order lost.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return logits `(B, out)` of the layer's dtype."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def tower(in_dim: int, hidden_dims: Sequence[int], dropout: float) -> nn.Sequential:
    """Return hidden layers, each Linear, BatchNorm, ReLU, Dropout, and a Linear to one output."""
    layers: list[nn.Module] = []
    for hidden_dim in hidden_dims:
        layers += [
            nn.Linear(in_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            Dropout(dropout),
        ]
        in_dim = hidden_dim
    return nn.Sequential(*layers, LogitLayer(in_dim, 1))
