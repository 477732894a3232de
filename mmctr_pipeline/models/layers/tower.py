"""The tower of hidden layers at the end of a CTR model."""

from collections.abc import Sequence

from torch import nn

from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.models.layers.exact import ExactLinear


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
    return nn.Sequential(*layers, ExactLinear(in_dim, 1))
