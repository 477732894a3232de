"""Layers between the item vectors and a model: standardising, or a learned matrix."""

import torch
from torch import nn


class VectorScaling(nn.Module):
    """Standardises item vectors per dimension with stored statistics.

    Before `fit` vectors pass unchanged.
    """

    mean_D: torch.Tensor
    scale_D: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(dim))
        self.register_buffer("scale_D", torch.ones(dim))

    def fit(self, vectors_ID: torch.Tensor, present_I: torch.Tensor) -> None:
        """Store mean and standard deviation of `(I, D)` over the items present, `(I,) bool`.

        A dimension that does not vary is centred but not scaled. Raises `ValueError` if no item is
        present.
        """
        if not bool(present_I.any()):
            raise ValueError("cannot standardise: no item has a vector")
        vectors = vectors_ID[present_I].double()
        mean_D = vectors.mean(0)
        deviation_D = (vectors - mean_D).square().mean(0).sqrt()
        # Rounding leaves a constant dimension with a tiny deviation; compare with the magnitude.
        varies_D = deviation_D > 1e-6 * vectors.square().mean().sqrt()
        self.mean_D.copy_(mean_D)
        self.scale_D.copy_(torch.where(varies_D, deviation_D, 1.0))

    def forward(self, vectors_BD: torch.Tensor, present_B: torch.Tensor) -> torch.Tensor:
        """Return `(B, D)`, standardised; zero (the mean) where `present_B` `(B,) bool` is False."""
        scaled_BD = (vectors_BD - self.mean_D) / self.scale_D
        return torch.where(present_B.unsqueeze(-1), scaled_BD, 0.0)


class VectorProjection(nn.Module):
    """Multiplies item vectors by a learned square matrix, as FuxiCTR does with given vectors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.matrix = nn.Linear(dim, dim, bias=False)

    def forward(self, vectors_BD: torch.Tensor, present_B: torch.Tensor) -> torch.Tensor:
        """Return `(B, D)`, in autocast's format under autocast; zero for items without a vector."""
        projected_BD = self.matrix(vectors_BD.to(self.matrix.weight.dtype))
        return torch.where(present_B.unsqueeze(-1), projected_BD, 0.0)
