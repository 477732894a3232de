"""Products that skip leading zeros equal the full products, in float64."""

import pytest
import torch
from torch.nn import functional

from mmctr_pipeline.models.layers.staircase import Staircase, staircase_linear
from mmctr_pipeline_tests.models.layers.ragged_case import assert_same, result_and_gradients

STAIRS = Staircase((2, 5, 6), (7, 4, 2))
"""Three steps over six rows, for matrices of nine columns."""


def stepped(stairs: Staircase, dim: int) -> torch.Tensor:
    """Return `(B, dim) float64` that differs from zero only within `stairs`."""
    x_BD = torch.zeros(stairs.row_ends[-1], dim, dtype=torch.float64)
    start = 0
    for end, width in zip(stairs.row_ends, stairs.widths, strict=True):
        x_BD[start:end, dim - width :] = torch.randn(end - start, width, dtype=torch.float64)
        start = end
    return x_BD.requires_grad_()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("stairs", [STAIRS, Staircase.full(6, 9), Staircase((6,), (4,))])
def test_a_product_and_its_gradients_equal_those_of_the_full_product(
    stairs: Staircase, biased: bool
) -> None:
    torch.manual_seed(0)
    x_BI = stepped(stairs, 9)
    inside_BI = x_BI.detach() != 0
    weight_OI = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    bias_O = torch.randn(3, dtype=torch.float64, requires_grad=True) if biased else None
    leaves = [x_BI, weight_OI] if bias_O is None else [x_BI, weight_OI, bias_O]
    ours = result_and_gradients(lambda: staircase_linear(x_BI, weight_OI, bias_O, stairs), leaves)
    theirs = result_and_gradients(lambda: functional.linear(x_BI, weight_OI, bias_O), leaves)
    theirs[1] = theirs[1] * inside_BI
    assert_same(ours, theirs)


def test_values_outside_the_staircase_are_not_read() -> None:
    torch.manual_seed(1)
    x_BI, weight_OI = stepped(STAIRS, 9).detach(), torch.randn(3, 9, dtype=torch.float64)
    noisy_BI = torch.where(x_BI == 0, torch.nan, x_BI)
    product_BO = staircase_linear(noisy_BI, weight_OI, None, STAIRS)
    assert torch.allclose(product_BO, x_BI @ weight_OI.T, atol=1e-12, rtol=0)


def test_results_under_autocast_are_bfloat16_and_gradients_are_float32() -> None:
    torch.manual_seed(2)
    x_BI = stepped(STAIRS, 9).detach().float().requires_grad_()
    weight_OI, bias_O = torch.randn(3, 9, requires_grad=True), torch.randn(3, requires_grad=True)
    exact_BO = staircase_linear(x_BI, weight_OI, bias_O, STAIRS)
    with torch.autocast("cpu", torch.bfloat16):
        product_BO = staircase_linear(x_BI, weight_OI, bias_O, STAIRS)
    assert (exact_BO.dtype, product_BO.dtype) == (torch.float32, torch.bfloat16)
    assert 0 < (product_BO - exact_BO).abs().max() < 0.1
    product_BO.sum().backward()
    assert weight_OI.grad is not None
    assert weight_OI.grad.dtype == torch.float32
    assert torch.allclose(weight_OI.grad[0], x_BI.detach().sum(0), atol=0.05)


def test_many_rows_of_a_width_form_a_step_and_few_rows_join_the_wider_step() -> None:
    wide, narrow = [9] * 1000, [3] * 1000
    assert Staircase.from_widths(wide + narrow) == Staircase((1000, 2000), (9, 3))
    assert Staircase.from_widths([*wide, 8, *narrow]) == Staircase((1001, 2001), (9, 3))
    assert Staircase.from_widths([9, 8, 8, 7]) == Staircase((4,), (9,))
    assert Staircase.from_widths([]) == Staircase((), ())


def test_every_step_is_as_wide_as_its_widest_row() -> None:
    torch.manual_seed(3)
    widths = torch.randint(0, 40, (3000,)).sort(descending=True).values.tolist()
    stairs = Staircase.from_widths(widths)
    assert len(stairs.widths) > 3
    assert list(stairs.widths) == sorted(stairs.widths, reverse=True)
    start = 0
    for end, width in zip(stairs.row_ends, stairs.widths, strict=True):
        assert widths[start] == width
        start = end
    assert start == 3000


def test_unsorted_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="sorted by decreasing width"):
        Staircase.from_widths([3, 2, 4])
