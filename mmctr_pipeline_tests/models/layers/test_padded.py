"""Padded views hold the newest positions of each row, and can be encoded in blocks.

Blocks of rows of similar length give the same result as one view as wide as the longest row.
"""

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.layers.padded import (
    encode_by_length,
    from_padded,
    padded_mask,
    to_padded,
)
from mmctr_pipeline_tests.models.layers.ragged_case import (
    DIM,
    LENGTHS,
    N_REAL,
    N_ROWS,
    SPARE,
    assert_same,
    random_values,
    result_and_gradients,
    row_offsets,
)

OFFSETS = row_offsets(LENGTHS)


def plain_view(values_TD: torch.Tensor, length: int) -> torch.Tensor:
    """Return the newest `length` positions of each row, padded with zeros on the left."""
    rows = []
    for values in values_TD[:N_REAL].split(LENGTHS):
        newest = values[max(len(values) - length, 0) :]
        padding = values_TD.new_zeros(length - len(newest), *values_TD.shape[1:])
        rows.append(torch.cat([padding, newest]))
    return torch.stack(rows)


@pytest.mark.parametrize("spare", [0, SPARE])
@pytest.mark.parametrize("length", [1, 5, 100, 130])
def test_a_padded_view_holds_the_newest_positions(length: int, spare: int) -> None:
    torch.manual_seed(0)
    values_TD = random_values(spare)
    ours = result_and_gradients(lambda: to_padded(values_TD, OFFSETS, length), [values_TD])
    theirs = result_and_gradients(lambda: plain_view(values_TD, length), [values_TD])
    assert_same(ours, theirs, atol=0)
    mask_BL = padded_mask(OFFSETS.diff(), length)
    assert torch.equal(mask_BL, plain_view(torch.ones(N_REAL, dtype=torch.bool), length))


@pytest.mark.parametrize("length", [5, 100])
def test_from_padded_puts_each_vector_back_at_its_position(length: int) -> None:
    torch.manual_seed(1)
    padded_BLD = torch.randn(N_ROWS, length, DIM, dtype=torch.float64, requires_grad=True)
    number_BL = plain_view(torch.arange(N_REAL) + 1, length)

    def plain() -> torch.Tensor:
        values_TD = torch.zeros(N_REAL + SPARE, DIM, dtype=torch.float64)
        return values_TD.index_copy(0, number_BL[number_BL > 0] - 1, padded_BLD[number_BL > 0])

    ours = result_and_gradients(
        lambda: from_padded(padded_BLD, OFFSETS, N_REAL + SPARE), [padded_BLD]
    )
    assert_same(ours, result_and_gradients(plain, [padded_BLD]), atol=0)


class RowEncoder(nn.Module):
    """Attention among the positions of a row, then the newest position and the maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(DIM, DIM)
        self.output = nn.Linear(DIM, DIM)

    def forward(self, padded_bLD: torch.Tensor, mask_bL: torch.Tensor) -> torch.Tensor:
        scores_bLL = self.score(padded_bLD) @ padded_bLD.mT
        weights_bLL = torch.softmax(scores_bLL.masked_fill(~mask_bL[:, None], -1e30), dim=-1)
        encoded_bLD = self.output(weights_bLL @ padded_bLD).masked_fill(~mask_bL[..., None], -9.0)
        return torch.cat([encoded_bLD[:, -1], encoded_bLD.amax(1)], dim=1)


@pytest.mark.parametrize("spare", [0, SPARE])
@pytest.mark.parametrize("widths", [(100,), (1, 4, 8, 100), (2, 50, 60, 64)])
def test_encoding_by_length_equals_one_wide_view(widths: tuple[int, ...], spare: int) -> None:
    torch.manual_seed(2)
    encoder = RowEncoder().double()
    values_TD = random_values(spare)
    rows_BD = torch.randn(N_ROWS, 2 * DIM, dtype=torch.float64, requires_grad=True)
    shapes = []

    def encode(
        rows_b: torch.Tensor, padded_bLD: torch.Tensor, mask_bL: torch.Tensor
    ) -> torch.Tensor:
        shapes.append(tuple(mask_bL.shape))
        return encoder(padded_bLD, mask_bL) + rows_BD[rows_b]

    leaves = [values_TD, rows_BD, *encoder.parameters()]
    ours = result_and_gradients(
        lambda: encode_by_length(encode, values_TD, OFFSETS, widths), leaves
    )
    view = plain_view(values_TD, widths[-1])
    mask = plain_view(torch.ones(N_REAL, dtype=torch.bool), widths[-1])
    assert_same(ours, result_and_gradients(lambda: encoder(view, mask) + rows_BD, leaves))
    width_of_row = [min([w for w in widths if w >= n], default=widths[-1]) for n in LENGTHS]
    assert shapes == [(width_of_row.count(w), w) for w in widths if w in width_of_row]


@pytest.mark.parametrize("widths", [(), (8, 4), (4, 4)])
def test_widths_that_do_not_ascend_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        encode_by_length(lambda *block: block[1], torch.zeros(3, 2), torch.tensor([0, 3]), widths)
