"""Batches: a whole split on the device, cut into ragged batches by index operations alone."""

from collections.abc import Iterator

import numpy as np
import torch

from mmctr_pipeline.data.dataset import ItemTable, Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.models.batch import Batch, ItemFeatures


def item_features(items: ItemTable, vectors: VectorTable) -> ItemFeatures:
    """Return the features of all items, row i being item i; ids without an item stay zero.

    Vectors are joined by id, on the CPU; row 0 is padding. Raises `ValueError` where an item's
    vector is not finite, or where no item has one.
    """
    n_rows = int(items.item_id.max(initial=0)) + 1
    found = vectors.aligned_to(items.item_id)
    finite_M = np.isfinite(found.vectors).all(axis=1)
    if not finite_M.all():
        raise ValueError(
            f"{int((~finite_M).sum())} item vectors of {vectors.identity} are not finite, first "
            f"that of item {items.item_id[np.argmin(finite_M)]}; materialise the vectors again"
        )
    if not found.present.any():
        raise ValueError(
            f"none of the {len(items)} items has a vector in {vectors.identity}; "
            "the vectors were made from another catalogue: materialise them again"
        )
    rows = items.item_id.astype(np.int64)
    vectors_ID = np.zeros((n_rows, vectors.dim), np.float32)
    present_I = np.zeros(n_rows, bool)
    levels_2I = np.zeros((2, n_rows), np.int64)
    vectors_ID[rows], present_I[rows] = found.vectors, found.present
    levels_2I[:, rows] = items.likes_level, items.views_level
    return ItemFeatures(
        torch.from_numpy(vectors_ID),
        torch.from_numpy(present_I),
        torch.from_numpy(levels_2I[0]),
        torch.from_numpy(levels_2I[1]),
    )


class BatchSource:
    """One split, resident on a device; histories are stored once each and stay ragged."""

    def __init__(
        self, split: Split, histories: Ragged, items: ItemFeatures, device: torch.device
    ) -> None:
        """Copy `split` and `histories` to `device`; `items` must be there already."""

        def resident(array: np.ndarray) -> torch.Tensor:
            # Arrays from Arrow are read-only, which torch refuses to share silently.
            return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)

        self._user_id_N = resident(split.user_id)
        self._item_id_N = resident(split.item_id)
        self._history_N = resident(split.history)
        self._likes_level_N = resident(split.likes_level)
        self._views_level_N = resident(split.views_level)
        self._label_N = None if split.label is None else resident(split.label)
        self._history_values = resident(histories.values)
        self._history_offsets = resident(histories.offsets)
        self._items = items
        self._device = device

    def __len__(self) -> int:
        return len(self._item_id_N)

    def batch(self, rows_B: torch.Tensor) -> Batch:
        """Return the rows at the positions `rows_B` (`(B,) int64` on the device), in that order."""
        history_B = self._history_N[rows_B].long()
        start_B = self._history_offsets[history_B]
        length_B = self._history_offsets[history_B + 1] - start_B
        offsets = torch.zeros(len(rows_B) + 1, dtype=torch.int64, device=self._device)
        torch.cumsum(length_B, 0, out=offsets[1:])
        n_positions = int(offsets[-1])
        shift_T = torch.repeat_interleave(start_B - offsets[:-1], length_B, output_size=n_positions)
        position_T = shift_T + torch.arange(n_positions, device=self._device)
        return Batch(
            user_id_B=self._user_id_N[rows_B].long(),
            item_id_B=self._item_id_N[rows_B].long(),
            likes_level_B=self._likes_level_N[rows_B].long(),
            views_level_B=self._views_level_N[rows_B].long(),
            history_T=self._history_values[position_T].long(),
            history_offsets=offsets,
            items=self._items,
            label_B=None if self._label_N is None else self._label_N[rows_B].float(),
        )

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield every row once, in the order of the split."""
        for rows_B in torch.arange(len(self), device=self._device).split(batch_size):
            yield self.batch(rows_B)

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield every row once in an order that follows from `seed` and `epoch` alone.

        The last batch may be smaller; it is left out where it has a single row, of which
        BatchNorm knows no variance.
        """
        state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        order_N = torch.randperm(len(self), generator=generator).to(self._device)
        for rows_B in order_N.split(batch_size):
            if len(rows_B) > 1:
                yield self.batch(rows_B)
