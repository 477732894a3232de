"""The weights that the attention layers share with torch's own."""

import torch
from torch import nn


class MultiHeadWeights(nn.Module):
    """Weights, names and start of `nn.MultiheadAttention(dim, n_heads)`, for layers like it."""

    def __init__(self, dim: int, n_heads: int) -> None:
        """Raise `ValueError` where `n_heads` does not divide `dim`."""
        super().__init__()
        if dim % n_heads:
            raise ValueError(
                f"{n_heads} heads do not divide {dim} dimensions, which follow from the item's "
                "features: choose another number of heads, or set features.projection_dim"
            )
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)
        self._n_heads = n_heads
