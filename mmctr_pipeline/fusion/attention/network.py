"""The network of the attention fusion: one projection per modality, weighted by attention."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


class AttentionFusion(nn.Module):
    """Project each modality to K dimensions and add them up, weighted by attention.

    `z = M * sum_m a_m p_m` over the M modalities in use, where `p_m` is the linear projection of
    the standardised vector of modality m, or a learned token if the item lacks it, and `a` is the
    softmax over modalities of `w . tanh(W p_m + b_m)`.

    Training starts from a principal component analysis: projections that together form the given
    components, tokens of zero (the mean), and equal weights.
    """

    def __init__(self, dims: Sequence[int], dim: int, score_dim: int) -> None:
        super().__init__()
        self.dims, self.dim = tuple(dims), dim
        n_modalities = len(self.dims)
        # The projections of all modalities, in the order of the concatenated columns.
        self.projection = nn.Parameter(torch.zeros(dim, sum(self.dims)))
        self.missing = nn.Parameter(torch.zeros(n_modalities, dim))
        self.score_hidden = nn.Linear(dim, score_dim, bias=False)
        self.score_bias = nn.Parameter(torch.zeros(n_modalities, score_dim))
        self.score = nn.Linear(score_dim, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.register_buffer("mean", torch.zeros(sum(self.dims)))
        self.register_buffer("scale", torch.ones(sum(self.dims)))

    def start_from(
        self, components_KD: np.ndarray, mean_D: np.ndarray, scale_D: np.ndarray
    ) -> None:
        """Set the initial projections and the statistics that standardise the vectors."""
        with torch.no_grad():
            self.projection.copy_(torch.from_numpy(components_KD))
            self.get_buffer("mean").copy_(torch.from_numpy(mean_D))
            self.get_buffer("scale").copy_(torch.from_numpy(scale_D))

    def standardised(self, vectors_BD: torch.Tensor, present_BM: torch.Tensor) -> torch.Tensor:
        """Return `(vectors - mean) / scale`, zero where a modality is missing, `(B, D)`."""
        standardised_BD = (vectors_BD - self.get_buffer("mean")) / self.get_buffer("scale")
        return standardised_BD * self.columns_present(present_BM)

    def columns_present(self, present_BM: torch.Tensor) -> torch.Tensor:
        """Return for each column whether its modality is present, `(B, D) bool`."""
        sizes = torch.tensor(self.dims, device=present_BM.device)
        return present_BM.repeat_interleave(sizes, dim=1, output_size=sum(self.dims))

    def projected(self, standardised_BD: torch.Tensor) -> torch.Tensor:
        """Return the projection of each modality, `(B, M, K)`, whether it is missing or not."""
        parts = zip(
            standardised_BD.split(self.dims, dim=1),
            self.projection.split(self.dims, dim=1),
            strict=True,
        )
        return torch.stack([part_BD @ part_KD.T for part_BD, part_KD in parts], dim=1)

    def fused(
        self, projected_BMK: torch.Tensor, present_BM: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the fused vectors `(B, K)` and the attention weights `(B, M)`, which add up to 1.

        Where `present_BM` is False, the modality's token replaces its projection.
        """
        shown_BMK = torch.where(present_BM.unsqueeze(2), projected_BMK, self.missing)
        scores_BM = self.score(torch.tanh(self.score_hidden(shown_BMK) + self.score_bias))
        weights_BM = scores_BM.squeeze(2).softmax(dim=1)
        fused_BK = len(self.dims) * (weights_BM.unsqueeze(2) * shown_BMK).sum(dim=1)
        return fused_BK, weights_BM
