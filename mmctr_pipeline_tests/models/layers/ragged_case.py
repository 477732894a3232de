"""A ragged batch and its plain padded form, for tests of the ragged layers."""

from collections.abc import Callable, Iterable

import torch

from mmctr_pipeline.models.layers.segments import Segments

LENGTHS = [3, 0, 7, 1, 100, 0, 5, 1]
"""Lengths of histories; some are empty, some have one position, one has the maximum of 100."""

N_ROWS = len(LENGTHS)
N_REAL = sum(LENGTHS)
SPARE = 9
"""Number of spare positions at the end of a batch, which belong to no row."""

DIM = 6


def row_offsets(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])


def segments_of(values_TX: torch.Tensor) -> Segments:
    """Return the segments of the batch; positions beyond the rows' are spare."""
    offsets = row_offsets(LENGTHS).to(values_TX.device)
    return Segments.from_offsets(offsets, values_TX.shape[0])


def random_values(spare: int, dim: int = DIM) -> torch.Tensor:
    """Return random `(T, D) float64`, with garbage at the spare positions."""
    values_TD = torch.randn(N_REAL + spare, dim, dtype=torch.float64)
    values_TD[N_REAL:] = 1e3
    return values_TD.requires_grad_()


def random_keep(spare: int) -> torch.Tensor:
    """Return which positions to keep, `(T,) bool`: none of row 3, and the only position of row 7.

    The positions of the other rows are chosen at random.
    """
    keep_T = torch.rand(N_REAL + spare) > 0.3
    keep_T[row_offsets(LENGTHS)[3]] = False
    keep_T[row_offsets(LENGTHS)[7]] = True
    return keep_T


def padded(values_TX: torch.Tensor) -> torch.Tensor:
    """Return `(B, 100, ...)`: each row's positions from the left, followed by zeros."""
    rows = values_TX[:N_REAL].split(LENGTHS)
    padded_BLX = values_TX.new_zeros(N_ROWS, max(LENGTHS), *values_TX.shape[1:])
    for row, values in enumerate(rows):
        padded_BLX[row, : len(values)] = values
    return padded_BLX


def masked_softmax(scores_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """Return the softmax over the positions where the mask is True, and zero at the others."""
    weight_BL = torch.softmax(scores_BL.masked_fill(~mask_BL, -1e30), dim=-1)
    return torch.where(mask_BL, weight_BL, 0.0)


def result_and_gradients(
    run: Callable[[], torch.Tensor], leaves: Iterable[torch.Tensor]
) -> list[torch.Tensor]:
    """Return the result of `run`, and the gradients of its dot product with a fixed direction."""
    leaves = list(leaves)
    result = run()
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad((result * direction).sum(), leaves, allow_unused=True)
    return [
        result.detach(),
        *(
            torch.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(leaves, gradients, strict=True)
        ),
    ]


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor], atol: float = 1e-11) -> None:
    """Assert that results and gradients are equal, and that none of `ours` is all zeros."""
    for our, their in zip(ours, theirs, strict=True):
        assert our.shape == their.shape
        assert torch.allclose(our, their, atol=atol, rtol=0), float((our - their).abs().max())
        assert torch.count_nonzero(our) > 0
