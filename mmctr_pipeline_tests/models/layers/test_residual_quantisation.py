"""Residual codes equal those of plain loops, and a fit finds the groups among its vectors."""

import itertools

import pytest
import torch

from mmctr_pipeline.models.layers.residual_quantisation import ResidualQuantiser


def fitted(
    vectors_ND: torch.Tensor, n_levels: int, n_codes: int, seed: int = 0
) -> ResidualQuantiser:
    quantiser = ResidualQuantiser(vectors_ND.shape[1], n_levels, n_codes)
    quantiser.fit(vectors_ND, seed)
    return quantiser


def residuals(quantiser: ResidualQuantiser, vectors_ND: torch.Tensor) -> list[torch.Tensor]:
    """Return the vectors, and their residuals after each level."""
    left = [vectors_ND]
    for centroids_KD, code_N in zip(quantiser.centroids_LKD, quantiser(vectors_ND).T, strict=True):
        left.append(left[-1] - centroids_KD[code_N])
    return left


def mean_squared_residuals(quantiser: ResidualQuantiser, vectors_ND: torch.Tensor) -> list[float]:
    return [float(residual_ND.square().mean()) for residual_ND in residuals(quantiser, vectors_ND)]


def test_codes_are_the_centroids_nearest_to_the_residual() -> None:
    torch.manual_seed(0)
    vectors_ND = torch.randn(300, 7)
    quantiser = fitted(vectors_ND, n_levels=3, n_codes=5)
    codes_NL = quantiser(vectors_ND)
    assert codes_NL.dtype == torch.int64
    for vector_D, codes_L in zip(vectors_ND, codes_NL, strict=True):
        for centroids_KD, code in zip(quantiser.centroids_LKD, codes_L.tolist(), strict=True):
            assert code == int((centroids_KD - vector_D).square().sum(1).argmin())
            vector_D = vector_D - centroids_KD[code]


def test_levels_find_coarse_and_fine_groups() -> None:
    torch.manual_seed(1)
    coarse, fine = torch.randn(4, 16) * 10, torch.randn(3, 16)
    group_N, within_N = torch.arange(1200) % 4, torch.arange(1200) // 4 % 3
    vectors_ND = coarse[group_N] + fine[within_N] + torch.randn(1200, 16) * 0.01
    codes_NL = fitted(vectors_ND, n_levels=2, n_codes=8)(vectors_ND)
    # The eight codes of the first level split the four coarse groups; no code joins two groups.
    groups_by_code = [set(group_N[codes_NL[:, 0] == code].tolist()) for code in range(8)]
    assert all(len(groups) <= 1 for groups in groups_by_code)
    assert len(codes_NL.unique(dim=0)) >= 12


def test_further_levels_reduce_the_residual() -> None:
    torch.manual_seed(2)
    vectors_ND = torch.randn(2000, 8) + 3
    left = mean_squared_residuals(fitted(vectors_ND, n_levels=4, n_codes=16), vectors_ND)
    assert all(after < 0.8 * before for before, after in itertools.pairwise(left))


def test_codes_are_used_evenly_without_structure() -> None:
    torch.manual_seed(3)
    vectors_ND = torch.randn(4000, 256)
    codes_NL = fitted(vectors_ND, n_levels=3, n_codes=64)(vectors_ND)
    for level in range(3):
        assert codes_NL[:, level].bincount(minlength=64).max() < 4000 / 64 * 4


def test_only_the_seed_determines_the_centroids() -> None:
    torch.manual_seed(4)
    vectors_ND = torch.randn(500, 6)
    state = torch.get_rng_state()
    first, second, other = (fitted(vectors_ND, 2, 8, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.centroids_LKD, second.centroids_LKD)
    assert not torch.equal(first.centroids_LKD, other.centroids_LKD)
    assert torch.equal(torch.get_rng_state(), state)


def test_rare_vectors_get_their_own_codes() -> None:
    rare = torch.eye(7, 9) * 3
    vectors_ND = torch.cat([torch.full((400, 9), 0.5), rare])
    quantiser = fitted(vectors_ND, n_levels=1, n_codes=8)
    assert len(quantiser(vectors_ND).unique()) == 8
    assert mean_squared_residuals(quantiser, vectors_ND)[1] < 1e-10


def test_fewer_vectors_than_codes_get_distinct_codes() -> None:
    torch.manual_seed(5)
    vectors_ND = torch.randn(5, 4)
    quantiser = fitted(vectors_ND, n_levels=3, n_codes=16)
    assert len(quantiser(vectors_ND).unique(dim=0)) == 5
    assert quantiser.centroids_LKD.shape == (3, 16, 4)
    assert bool(quantiser.centroids_LKD.isfinite().all())
    assert mean_squared_residuals(quantiser, vectors_ND)[-1] < 1e-10
    same = fitted(vectors_ND[:1], n_levels=2, n_codes=4)
    assert mean_squared_residuals(same, vectors_ND[:1])[-1] < 1e-12


def test_codes_are_the_same_under_autocast() -> None:
    torch.manual_seed(6)
    vectors_ND = torch.randn(2000, 32)
    quantiser = fitted(vectors_ND, n_levels=3, n_codes=64)
    codes_NL = quantiser(vectors_ND)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantiser(vectors_ND), codes_NL)


def test_fitting_without_any_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot fit centroids: there is no vector"):
        fitted(torch.zeros(0, 4), 2, 8)
