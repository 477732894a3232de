"""Codes of vectors: the nearest centroid, then the one nearest to the residual, and so on."""

import torch
from torch import nn

_ROWS_PER_CODE = 64
"""Maximum number of vectors per centroid that a fit uses. More would hardly move a mean."""

_STARTING_VECTORS = 4
"""Vectors averaged for a centroid's start. If single vectors in many dimensions were the starts,
nearly all others would be nearest to the shortest start, and each longer one only to itself."""

_N_ROUNDS = 10
"""Maximum rounds of Lloyd's algorithm; by then few vectors still change their centroid."""

_BLOCK_ROWS = 8192
"""Vectors whose distances to all centroids are held in memory at once."""


class ResidualQuantiser(nn.Module):
    """K-means on vectors, then on their residuals, for several levels.

    Residual quantisation (Chen, Guan and Wang 2010, Sensors 10) with centroids by k-means (Lloyd
    1982). The first level separates coarse groups; each further level separates items within their
    group. Before `fit` all centroids are zero.
    """

    centroids_LKD: torch.Tensor

    def __init__(self, dim: int, n_levels: int, n_codes: int) -> None:
        super().__init__()
        self.register_buffer("centroids_LKD", torch.zeros(n_levels, n_codes, dim))

    def fit(self, vectors_ND: torch.Tensor, seed: int) -> None:
        """Fit the centroids to a random sample of the vectors, `(N, D) float32`.

        Uses at most 64 vectors per centroid, and at most 10 rounds on each level. The computation
        runs on the CPU and is determined by the seed. Raises `ValueError` if there is no vector.
        """
        if len(vectors_ND) == 0:
            raise ValueError("cannot fit centroids: there is no vector")
        generator = torch.Generator().manual_seed(seed)
        n_levels, n_codes, _ = self.centroids_LKD.shape
        drawn = torch.randperm(len(vectors_ND), generator=generator)[: n_codes * _ROWS_PER_CODE]
        residual_ND = vectors_ND[drawn.to(vectors_ND.device)].cpu().float()
        for level in range(n_levels):
            shape = n_codes, _STARTING_VECTORS
            start_KS = torch.randint(len(residual_ND), shape, generator=generator)
            centroids_KD = _lloyd(residual_ND, residual_ND[start_KS].mean(1))
            residual_ND = residual_ND - centroids_KD[_nearest(residual_ND, centroids_KD)[0]]
            self.centroids_LKD[level].copy_(centroids_KD)

    @torch.no_grad()
    def forward(self, vectors_ND: torch.Tensor) -> torch.Tensor:
        """Return the code of each vector on each level, `(N, L) int64` from 0."""
        # Rounded distances would give an item other codes under autocast than without.
        with torch.autocast(vectors_ND.device.type, enabled=False):
            residual_ND, codes = vectors_ND.to(self.centroids_LKD.dtype), []
            for centroids_KD in self.centroids_LKD:
                code_N, _ = _nearest(residual_ND, centroids_KD)
                residual_ND = residual_ND - centroids_KD[code_N]
                codes.append(code_N)
            return torch.stack(codes, dim=1)


def _lloyd(vectors_ND: torch.Tensor, centroids_KD: torch.Tensor) -> torch.Tensor:
    """Return centroids that are the means of the vectors nearest to them.

    A centroid without vectors moves to one of the vectors farthest from their own centroids.
    """
    before_N = None
    for _ in range(_N_ROUNDS):
        code_N, distance_N = _nearest(vectors_ND, centroids_KD)
        if before_N is not None and torch.equal(code_N, before_N):
            break
        before_N = code_N
        n_vectors_K = torch.bincount(code_N, minlength=len(centroids_KD))
        sums_KD = torch.zeros_like(centroids_KD).index_add_(0, code_N, vectors_ND)
        centroids_KD = sums_KD / n_vectors_K.clamp_min(1).unsqueeze(1)
        empty = (n_vectors_K == 0).nonzero()[:, 0]
        farthest = distance_N.argsort(descending=True, stable=True)
        centroids_KD[empty] = vectors_ND[farthest[torch.arange(len(empty)) % len(farthest)]]
    return centroids_KD


def _nearest(
    vectors_ND: torch.Tensor, centroids_KD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest centroid of each vector, `(N,) int64`, and its squared distance `(N,)`."""
    norm_K = centroids_KD.square().sum(1)
    found = [
        torch.addmm(norm_K, block_ND, centroids_KD.t(), alpha=-2).min(dim=1)
        for block_ND in vectors_ND.split(_BLOCK_ROWS)
    ]
    # The vector's own norm adds the same to all its distances.
    distance_N = torch.cat([block.values for block in found]) + vectors_ND.square().sum(1)
    return torch.cat([block.indices for block in found]), distance_N
