"""Padded views of a ragged batch, for models that need a rectangle.

A view holds the newest positions of each row (a history is stored oldest first), as many as fit, at
its right end, after zeros.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch

from mmctr_pipeline.models.layers.segments import Segments, linear_map


def padded_mask(length_B: torch.Tensor, width: int) -> torch.Tensor:
    """Return `(B, L) bool`, True for the places of the padded view that hold a position."""
    age_L = torch.arange(width, device=length_B.device).flip(0)
    return age_L < length_B.unsqueeze(-1)


def to_padded(values_TD: torch.Tensor, offsets: torch.Tensor, width: int) -> torch.Tensor:
    """Return the padded view `(B, L, D)`, zero where `padded_mask` is False."""
    slots = _Slots.for_view(offsets, values_TD.shape[0], width)
    padded_SD = linear_map(values_TD, slots.scatter, slots.gather)
    return padded_SD.unflatten(0, (offsets.shape[0] - 1, width))


def from_padded(padded_BLD: torch.Tensor, offsets: torch.Tensor, n_positions: int) -> torch.Tensor:
    """Return `(T, D)`, each position's vector in the padded view; zero for positions without one.

    Spare positions, and positions too old for the view, have none.
    """
    slots = _Slots.for_view(offsets, n_positions, padded_BLD.shape[1])
    # Torch's own gradient would sum over slots, though no two positions share one.
    return linear_map(padded_BLD.flatten(0, 1), slots.gather, slots.scatter)


def encode_by_length(
    encode: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    values_TD: torch.Tensor,
    offsets: torch.Tensor,
    widths: Sequence[int],
) -> torch.Tensor:
    """Run an encoder on blocks of rows of similar length and return its results in row order.

    The results equal those of one wide view provided that the encoder treats each row alone and
    ignores padding: it must not contain BatchNorm. The host reads the sizes of the blocks, so a
    CUDA graph cannot capture this; use one `to_padded` there.

    Parameters
    ----------
    encode
        Called as `encode(rows_b, padded_bLD, mask_bL)` for each block that has rows, with the
        numbers of its rows `(b,) int64`, their padded view and its mask, all False for a row
        without positions. Returns `(b, ...)`, the trailing shape being the same for all blocks.
    values_TD
        One vector per position.
    offsets
        `(B + 1,) int64`, the rows' first positions.
    widths
        Widths of the blocks, ascending. A row goes to the narrowest that holds it, or to the
        last, which keeps its newest positions.

    Raises `ValueError` if `widths` is empty or does not ascend.
    """
    if not widths or list(widths) != sorted(set(widths)):
        raise ValueError(f"widths of blocks must ascend, but are {list(widths)}")
    length_B = offsets.diff()
    width_of_block = torch.tensor(list(widths), device=offsets.device)
    block_B = torch.bucketize(length_B, width_of_block[:-1])
    order_B = block_B.argsort(stable=True)
    rows_of_blocks = order_B.split(torch.bincount(block_B, minlength=len(widths)).tolist())

    # One scatter lays out all blocks, one after the other.
    width_B = width_of_block[block_B]
    end_slot_B = torch.empty_like(width_B).scatter_(0, order_B, width_B[order_B].cumsum(0))
    sizes = [len(rows_b) * width for rows_b, width in zip(rows_of_blocks, widths, strict=True)]
    segments = Segments.from_offsets(offsets, values_TD.shape[0])
    slots = _Slots.for_rows(segments, width_B, end_slot_B, sum(sizes))
    padded_SD = linear_map(values_TD, slots.scatter, slots.gather)
    results = [
        encode(rows_b, block_SD.unflatten(0, (-1, width)), padded_mask(length_B[rows_b], width))
        for rows_b, block_SD, width in zip(
            rows_of_blocks, padded_SD.split(sizes), widths, strict=True
        )
        if len(rows_b) > 0
    ]
    return torch.cat(results).index_select(0, order_B.argsort())


@dataclasses.dataclass(frozen=True)
class _Slots:
    """The slot of each position in S slots, `slot_T` `(T,) int64`; S for positions without one."""

    slot_T: torch.Tensor
    n_slots: int

    @classmethod
    def for_rows(
        cls, segments: Segments, width_B: torch.Tensor, end_slot_B: torch.Tensor, n_slots: int
    ) -> "_Slots":
        """Give each row the `width_B` slots before `end_slot_B`."""
        age_T = segments.ages()
        # Spare positions see a width of zero.
        has_slot_T = age_T < segments.expanded(width_B)
        slot_T = torch.where(has_slot_T, segments.expanded(end_slot_B) - 1 - age_T, n_slots)
        return cls(slot_T, n_slots)

    @classmethod
    def for_view(cls, offsets: torch.Tensor, n_positions: int, width: int) -> "_Slots":
        """Give each row `width` slots, as in a view `(B, L)`."""
        end_slot_B = torch.arange(1, offsets.shape[0], device=offsets.device) * width
        width_B, n_slots = torch.full_like(end_slot_B, width), width * end_slot_B.shape[0]
        segments = Segments.from_offsets(offsets, n_positions)
        return cls.for_rows(segments, width_B, end_slot_B, n_slots)

    def scatter(self, values_TD: torch.Tensor) -> torch.Tensor:
        # One more slot takes the positions that have none.
        slots_SD = values_TD.new_zeros(self.n_slots + 1, values_TD.shape[1])
        return slots_SD.index_copy_(0, self.slot_T, values_TD)[:-1]

    def gather(self, slots_SD: torch.Tensor) -> torch.Tensor:
        zero_1D = slots_SD.new_zeros(1, slots_SD.shape[1])
        return torch.cat([slots_SD, zero_1D]).index_select(0, self.slot_T)
