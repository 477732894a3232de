"""Activations between the layers of a CTR model, Dice among them."""

from typing import Literal

import torch
from torch import nn

Activation = Literal["dice", "prelu", "relu", "sigmoid"]
"""Names that `activation` knows."""


def activation(name: Activation, dim: int) -> nn.Module:
    """Return the activation called `name` for `dim` units. Raises `ValueError` for other names."""
    if name == "dice":
        return Dice(dim)
    if name == "prelu":
        return nn.PReLU(dim)
    if name == "relu":
        return nn.ReLU()
    if name == "sigmoid":
        return nn.Sigmoid()
    raise ValueError(f"unknown activation {name!r}; known: dice, prelu, relu, sigmoid")


class Dice(nn.Module):
    """Data-adaptive activation of DIN: `p x + (1 - p) alpha x`, p the sigmoid of BatchNorm(x).

    Zhou et al. 2018, arXiv 1706.06978, section 5.3; alpha is learned per unit and starts at zero.
    The BatchNorm has no weights of its own; `running_mean_D` and `running_variance_D` serve
    outside training. Statistics are float32 under autocast.
    """

    running_mean_D: torch.Tensor
    running_variance_D: torch.Tensor

    def __init__(self, dim: int, momentum: float = 0.01, epsilon: float = 1e-9) -> None:
        super().__init__()
        self.alpha_D = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean_D", torch.zeros(dim))
        self.register_buffer("running_variance_D", torch.ones(dim))
        self._momentum = momentum
        self._epsilon = epsilon

    def forward(self, x_ND: torch.Tensor, keep_N: torch.Tensor | None = None) -> torch.Tensor:
        """Return `(N, D)`; statistics are taken over the vectors that `keep_N` `(N,) bool` keeps.

        The others are activated by the statistics of those.
        """
        with torch.autocast(x_ND.device.type, enabled=False):
            x_ND = x_ND.to(self.alpha_D.dtype)
            if self.training:
                centred_ND, variance_D = self._centred(x_ND, keep_N)
            else:
                centred_ND, variance_D = x_ND - self.running_mean_D, self.running_variance_D
            gate_ND = torch.sigmoid(centred_ND * (variance_D + self._epsilon).rsqrt())
            return x_ND * torch.lerp(self.alpha_D, torch.ones_like(self.alpha_D), gate_ND)

    def _centred(
        self, x_ND: torch.Tensor, keep_N: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `x_ND` less its mean, and its variance `(D,)`; the running ones follow."""
        keep_N = x_ND.new_ones(len(x_ND)) if keep_N is None else keep_N.to(x_ND.dtype)
        n_kept = keep_N.sum()
        # Products with the mask add up the kept vectors without a copy of them.
        mean_D = keep_N @ x_ND / n_kept.clamp_min(1)
        centred_ND = x_ND - mean_D
        squares_D = keep_N @ centred_ND.square()
        with torch.no_grad():
            # A batch of one vector knows no variance, and one of none no mean either.
            unbiased_D = squares_D / (n_kept - 1).clamp_min(1)
            self.running_mean_D.lerp_(mean_D, (n_kept > 0).to(x_ND.dtype) * self._momentum)
            self.running_variance_D.lerp_(unbiased_D, (n_kept > 1).to(x_ND.dtype) * self._momentum)
        return centred_ND, squares_D / n_kept.clamp_min(1)
