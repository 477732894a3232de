"""Reductions, softmax and products over ragged rows equal those over padded rows in float64."""

import pytest
import torch

from mmctr_pipeline.models.layers.segments import (
    Segments,
    expand_to_positions,
    row_dots,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
    weighted_sum,
)
from mmctr_pipeline_tests.models.layers.ragged_case import (
    DIM,
    LENGTHS,
    N_REAL,
    N_ROWS,
    SPARE,
    assert_same,
    masked_softmax,
    padded,
    random_keep,
    random_values,
    result_and_gradients,
    row_offsets,
)

LENGTH_B1 = torch.tensor(LENGTHS).unsqueeze(-1)
MASK_BL1 = (torch.arange(max(LENGTHS)) < LENGTH_B1).unsqueeze(-1)


def make_segments(n_positions: int) -> Segments:
    return Segments.from_offsets(row_offsets(LENGTHS), n_positions)


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
        values_TD[:N_REAL] = (values_TD[:N_REAL] * 2).round() / 2 - 1  # many are equal
    segments = make_segments(len(values_TD))
    ours = result_and_gradients(lambda: ragged(values_TD, segments), [values_TD])
    theirs = result_and_gradients(lambda: plain(values_TD), [values_TD])
    assert_same(ours, theirs)
    assert torch.count_nonzero(ours[0][[1, 5]]) == 0
    assert torch.count_nonzero(ours[1][N_REAL:]) == 0


@pytest.mark.parametrize("spare", [0, SPARE])
def test_expansion_repeats_each_row_at_its_positions(spare: int) -> None:
    rows_BD = torch.randn(N_ROWS, DIM, dtype=torch.float64, requires_grad=True)
    repeated_TD = torch.cat(
        [
            *(row_D.repeat(length, 1) for row_D, length in zip(rows_BD, LENGTHS, strict=True)),
            torch.zeros(spare, DIM, dtype=torch.float64),
        ]
    )
    segments = make_segments(N_REAL + spare)
    ours = result_and_gradients(lambda: expand_to_positions(rows_BD, segments), [rows_BD])
    assert_same(ours, result_and_gradients(lambda: repeated_TD, [rows_BD]))


def test_a_sum_of_bfloat16_values_is_rounded_once() -> None:
    values_TD = torch.full((1000, 2), 1.0 + 2**-7, dtype=torch.bfloat16)
    sums_BD = segment_sum(values_TD, Segments.from_offsets(torch.tensor([0, 1000]), 1000))
    assert sums_BD.dtype == torch.bfloat16
    assert torch.allclose(sums_BD.float(), torch.tensor(1007.8125), rtol=2**-8)


def test_gradients_expanded_from_a_single_number_are_summed_correctly() -> None:
    # The gradient of a sum is a single number, expanded without copies.
    rows_BD = torch.randn(N_ROWS, DIM, requires_grad=True)
    expand_to_positions(rows_BD, make_segments(N_REAL)).sum().backward()
    assert torch.equal(rows_BD.grad, LENGTH_B1.float().expand(-1, DIM))


def test_positions_skip_empty_rows_and_spare_ones_belong_to_a_row_beyond_the_last() -> None:
    segments = Segments.from_offsets(row_offsets([0, 2, 0, 3, 0]), 7)
    assert segments.row_T.tolist() == [1, 1, 3, 3, 3, 5, 5]
    assert Segments.from_offsets(row_offsets([0, 0]), 0).row_T.tolist() == []


def test_ages_count_from_the_newest_position_of_each_row() -> None:
    segments = Segments.from_offsets(torch.tensor([0, 3, 3, 5]), 8)
    assert segments.ages().tolist() == [2, 1, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("spare", [0, SPARE])
def test_softmax_equals_the_padded_form(spare: int) -> None:
    torch.manual_seed(1)
    scores_T = torch.randn(N_REAL + spare, dtype=torch.float64, requires_grad=True)
    keep_T = random_keep(spare)
    mask_BL = padded(keep_T)
    positions_BL = padded(torch.arange(N_REAL) + 1)

    def plain() -> torch.Tensor:
        weight_BL = masked_softmax(padded(scores_T), mask_BL)
        return torch.cat([weight_BL[positions_BL > 0], torch.zeros(spare)])

    segments = make_segments(len(scores_T))
    ours = result_and_gradients(lambda: segment_softmax(scores_T, keep_T, segments), [scores_T])
    assert_same(ours, result_and_gradients(plain, [scores_T]))


def test_softmax_handles_extreme_scores() -> None:
    scores_T = torch.tensor([1000.0, 1000.0, -1000.0, -1001.0, 3.0], requires_grad=True)
    segments = Segments.from_offsets(row_offsets([2, 2, 1, 0]), 5)
    keep_T = torch.tensor([True, True, True, True, False])
    weights_T = segment_softmax(scores_T, keep_T, segments)
    expected = [0.5, 0.5, *torch.softmax(torch.tensor([-1000.0, -1001.0]), 0).tolist(), 0.0]
    assert torch.allclose(weights_T, torch.tensor(expected))
    weights_T[0].backward()
    assert bool(torch.isfinite(scores_T.grad).all())


def test_softmax_of_bfloat16_scores_is_float32() -> None:
    scores_T = torch.randn(N_REAL, dtype=torch.bfloat16)
    segments = make_segments(N_REAL)
    weights_T = segment_softmax(scores_T, segments.is_real, segments)
    assert torch.equal(weights_T, segment_softmax(scores_T.float(), segments.is_real, segments))


@pytest.mark.parametrize("spare", [0, SPARE])
def test_weighted_sums_equal_the_padded_form(spare: int) -> None:
    torch.manual_seed(2)
    values_TD = random_values(spare)
    weight_T = random_values(spare, 1).detach().squeeze(1).requires_grad_()
    leaves = [values_TD, weight_T]
    segments = make_segments(len(values_TD))
    ours = result_and_gradients(lambda: weighted_sum(values_TD, weight_T, segments), leaves)
    theirs = result_and_gradients(
        lambda: torch.einsum("bl,bld->bd", padded(weight_T), padded(values_TD)), leaves
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize("spare", [0, SPARE])
def test_dot_products_with_the_row_equal_the_plain_form(spare: int) -> None:
    torch.manual_seed(3)
    rows_BD = torch.randn(N_ROWS, DIM, dtype=torch.float64, requires_grad=True)
    values_TD = random_values(spare)

    def plain() -> torch.Tensor:
        dots = [
            values_LD @ rows_BD[row]
            for row, values_LD in enumerate(values_TD[:N_REAL].split(LENGTHS))
        ]
        return torch.cat([*dots, torch.zeros(spare, dtype=torch.float64)])

    leaves = [rows_BD, values_TD]
    segments = make_segments(len(values_TD))
    ours = result_and_gradients(lambda: row_dots(rows_BD, values_TD, segments), leaves)
    assert_same(ours, result_and_gradients(plain, leaves))
    assert torch.count_nonzero(ours[2][N_REAL:]) == 0


def test_row_dots_and_their_gradients_equal_those_of_float32_under_autocast() -> None:
    torch.manual_seed(0)
    rows_BD = torch.randn(N_ROWS, DIM, requires_grad=True)
    values_TD = torch.randn(N_REAL, DIM, requires_grad=True)
    segments, leaves = make_segments(N_REAL), [rows_BD, values_TD]
    plain = result_and_gradients(lambda: row_dots(rows_BD, values_TD, segments), leaves)
    with torch.autocast("cpu", torch.bfloat16):
        actual = result_and_gradients(lambda: row_dots(rows_BD, values_TD, segments), leaves)
    assert all(map(torch.equal, actual, plain))
