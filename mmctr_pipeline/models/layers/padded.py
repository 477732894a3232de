"""Padded views of a ragged batch, for models that need a rectangle, and narrow ones by length.

A view holds the newest positions of each row (a history is stored oldest first), as many as fit, at
its right end; before them are zeros.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mmctr_pipeline.models.layers.segments import rows_of_positions


def padded_mask(offsets: torch.Tensor, length: int) -> torch.Tensor:
    """Return `(B, L) bool`: which places of the padded view hold a position."""
    return _mask(offsets.diff(), length)


def to_padded(values_TD: torch.Tensor, offsets: torch.Tensor, length: int) -> torch.Tensor:
    """Return the padded view `(B, L, D)`, zero where `padded_mask` is False."""
    n_rows = len(offsets) - 1
    slot_T = _slots(offsets, len(values_TD), *_rectangle(offsets, length))
    padded_SD: torch.Tensor = _Scatter.apply(values_TD, slot_T, n_rows * length)
    return padded_SD.unflatten(0, (n_rows, length))


def from_padded(padded_BLD: torch.Tensor, offsets: torch.Tensor, n_positions: int) -> torch.Tensor:
    """Return `(T, D)`, each position's vector in the padded view; zero where it has none.

    Positions have none where they are spare, or too old for the view.
    """
    length = padded_BLD.shape[1]
    slot_T = _slots(offsets, n_positions, *_rectangle(offsets, length))
    values_TD: torch.Tensor = _Gather.apply(padded_BLD.flatten(0, 1), slot_T)
    return values_TD


def encode_by_length(
    encode: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    values_TD: torch.Tensor,
    offsets: torch.Tensor,
    lengths: Sequence[int],
) -> torch.Tensor:
    """Run an encoder on blocks of rows of like length and return its results in row order.

    Rows go to the narrowest of `lengths` (ascending) that holds them, or to the last, which keeps
    their newest positions. For each block with rows, `encode(rows_b, padded_bLD, mask_bL)` gets
    the numbers of its rows `(b,) int64`, their padded view and its mask, and returns `(b, ...)`,
    of the same shape but for b in each block. The results equal those of one wide view exactly as
    far as the encoder treats each row alone and ignores padding: it must hold no BatchNorm. A row
    without positions comes with a mask that is False throughout.

    The host reads the sizes of the blocks, so that a CUDA graph cannot capture this; take one
    `to_padded` there. Raises `ValueError` where `lengths` is empty or does not ascend.
    """
    if not lengths or list(lengths) != sorted(set(lengths)):
        raise ValueError(f"lengths of blocks must ascend, but are {list(lengths)}")
    length_B = offsets.diff()
    width_of_block = torch.tensor(list(lengths), device=offsets.device)
    block_B = torch.bucketize(length_B, width_of_block[:-1])
    order_B = block_B.argsort(stable=True)
    rows_of_blocks = order_B.split(torch.bincount(block_B, minlength=len(lengths)).tolist())

    width_B = width_of_block[block_B]
    sorted_width_B = width_B[order_B]
    base_B = torch.empty_like(width_B)
    base_B[order_B] = sorted_width_B.cumsum(0) - sorted_width_B
    sizes = [len(rows_b) * width for rows_b, width in zip(rows_of_blocks, lengths, strict=True)]
    slot_T = _slots(offsets, len(values_TD), width_B, base_B, sum(sizes))
    # One scatter lays out all blocks, one behind the other.
    padded_SD: torch.Tensor = _Scatter.apply(values_TD, slot_T, sum(sizes))
    results = [
        encode(
            rows_b,
            block_SD.unflatten(0, (len(rows_b), width)),
            _mask(length_B[rows_b], width),
        )
        for rows_b, block_SD, width in zip(
            rows_of_blocks, padded_SD.split(sizes), lengths, strict=True
        )
        if len(rows_b) > 0
    ]
    place_B = torch.empty_like(order_B)
    place_B[order_B] = torch.arange(len(order_B), device=order_B.device)
    return torch.cat(results).index_select(0, place_B)


def _rectangle(offsets: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return each row's width and its first slot, and the number of slots, of a view `(B, L)`."""
    first_slot_B = torch.arange(len(offsets) - 1, device=offsets.device) * length
    return torch.full_like(first_slot_B, length), first_slot_B, len(first_slot_B) * length


def _slots(
    offsets: torch.Tensor,
    n_positions: int,
    width_B: torch.Tensor,
    first_slot_B: torch.Tensor,
    n_slots: int,
) -> torch.Tensor:
    """Return the slot of each position `(T,) int64`; `n_slots` where it has none."""
    # Spare positions make up row B, of width zero.
    row_T = rows_of_positions(offsets, n_positions)
    end_T = torch.cat([offsets[1:], offsets.new_full((1,), n_positions)])[row_T]
    width_T = _with_zero(width_B)[row_T]
    age_T = end_T - 1 - torch.arange(n_positions, device=offsets.device)  # 0 is the newest
    slot_T = _with_zero(first_slot_B)[row_T] + width_T - 1 - age_T
    return torch.where(age_T < width_T, slot_T, n_slots)


def _with_zero(numbers_B: torch.Tensor) -> torch.Tensor:
    return torch.cat([numbers_B, numbers_B.new_zeros(1)])


def _mask(length_B: torch.Tensor, width: int) -> torch.Tensor:
    age_L = torch.arange(width, device=length_B.device).flip(0)
    return age_L < length_B.unsqueeze(-1)


def _scatter(values_TD: torch.Tensor, slot_T: torch.Tensor, n_slots: int) -> torch.Tensor:
    # One slot more takes the positions that have none.
    slots_SD = values_TD.new_zeros(n_slots + 1, values_TD.shape[1])
    return slots_SD.index_copy_(0, slot_T, values_TD)[:-1]


def _gather(slots_SD: torch.Tensor, slot_T: torch.Tensor) -> torch.Tensor:
    return torch.cat([slots_SD, slots_SD.new_zeros(1, slots_SD.shape[1])]).index_select(0, slot_T)


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values_TD: torch.Tensor, slot_T: torch.Tensor, n_slots: int
    ) -> torch.Tensor:
        ctx.save_for_backward(slot_T)
        return _scatter(values_TD, slot_T, n_slots)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_SD: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slot_T,) = ctx.saved_tensors
        return _gather(grad_SD, slot_T), None, None


class _Gather(torch.autograd.Function):
    # Torch would add the gradient up, though no two positions share a slot.
    @staticmethod
    def forward(ctx: Any, slots_SD: torch.Tensor, slot_T: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slot_T)
        ctx.n_slots = len(slots_SD)
        return _gather(slots_SD, slot_T)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_TD: torch.Tensor) -> tuple[torch.Tensor, None]:
        (slot_T,) = ctx.saved_tensors
        return _scatter(grad_TD, slot_T, ctx.n_slots), None
