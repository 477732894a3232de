"""Reductions over the rows of a ragged batch against padded ones in float64."""

import pytest
import torch

from mmctr_pipeline.models.layers.segments import (
    Segments,
    rows_of_positions,
    segment_max,
    segment_mean,
    segment_sum,
    spread,
)
from mmctr_pipeline_tests.models.layers.ragged_case import (
    DIM,
    LENGTHS,
    N_REAL,
    N_ROWS,
    SPARE,
    assert_same,
    offsets_of,
    padded,
    random_values,
    result_and_gradients,
)

LENGTH_B1 = torch.tensor(LENGTHS).unsqueeze(-1)
MASK_BL1 = (torch.arange(max(LENGTHS)) < LENGTH_B1).unsqueeze(-1)


def padded_sum(values_TD: torch.Tensor) -> torch.Tensor:
    return padded(values_TD).sum(1)


def padded_mean(values_TD: torch.Tensor) -> torch.Tensor:
    return padded(values_TD).sum(1) / LENGTH_B1.clamp_min(1)


def padded_max(values_TD: torch.Tensor) -> torch.Tensor:
    top_BD = padded(values_TD).masked_fill(~MASK_BL1, -torch.inf).amax(1)
    return torch.where(LENGTH_B1 > 0, top_BD, 0.0)


@pytest.mark.parametrize("spare", [0, SPARE])
@pytest.mark.parametrize(
    ("ragged", "plain"),
    [(segment_sum, padded_sum), (segment_mean, padded_mean), (segment_max, padded_max)],
)
def test_reductions_equal_the_padded_form(ragged, plain, spare: int) -> None:
    torch.manual_seed(0)
    values_TD = random_values(spare)
    with torch.no_grad():
        values_TD[:N_REAL] = (values_TD[:N_REAL] * 2).round() / 2 - 1  # ties, negative ones too
    segments = Segments.of(offsets_of(LENGTHS), len(values_TD))
    ours = result_and_gradients(lambda: ragged(values_TD, segments), [values_TD])
    theirs = result_and_gradients(lambda: plain(values_TD), [values_TD])
    assert_same(ours, theirs)
    assert torch.count_nonzero(ours[0][[1, 5]]) == 0
    assert torch.count_nonzero(ours[1][N_REAL:]) == 0


@pytest.mark.parametrize("spare", [0, SPARE])
def test_spread_repeats_each_row_at_its_positions(spare: int) -> None:
    rows_BD = torch.randn(N_ROWS, DIM, dtype=torch.float64, requires_grad=True)
    segments = Segments.of(offsets_of(LENGTHS), N_REAL + spare)
    repeated_TD = torch.cat(
        [
            *(row_D.repeat(length, 1) for row_D, length in zip(rows_BD, LENGTHS, strict=True)),
            torch.zeros(spare, DIM, dtype=torch.float64),
        ]
    )
    ours = result_and_gradients(lambda: spread(rows_BD, segments), [rows_BD])
    assert_same(ours, result_and_gradients(lambda: repeated_TD, [rows_BD]))


def test_a_sum_of_half_precision_values_is_rounded_once() -> None:
    values_TD = torch.full((1000, 2), 1.0 + 2**-7, dtype=torch.bfloat16)
    sums_BD = segment_sum(values_TD, Segments.of(torch.tensor([0, 1000]), 1000))
    assert sums_BD.dtype == torch.bfloat16
    assert torch.allclose(sums_BD.float(), torch.tensor(1007.8125), rtol=2**-8)


def test_gradients_that_share_memory_are_added_up_right() -> None:
    rows_BD = torch.randn(N_ROWS, DIM, requires_grad=True)
    segments = Segments.of(offsets_of(LENGTHS), N_REAL)
    spread(rows_BD, segments).sum().backward()
    assert torch.equal(rows_BD.grad, LENGTH_B1.float().expand(-1, DIM))


def test_rows_of_positions_skips_empty_rows_and_puts_spare_positions_beyond_the_last() -> None:
    assert rows_of_positions(offsets_of([0, 2, 0, 3, 0]), 7).tolist() == [1, 1, 3, 3, 3, 5, 5]
    assert rows_of_positions(offsets_of([0, 0]), 0).tolist() == []
