"""Batches: a whole split on the device, cut into ragged batches by index operations alone."""

from collections.abc import Iterator

import numpy as np
import torch

from mmctr_pipeline.data.dataset import ItemTable, Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.training.device import derived_seed

MAX_TAGS = 8
"""Tags of an item that a model sees, its first; more would widen the table of every item."""


class TrainingDataError(ValueError):
    """The data cannot be trained or validated on; the message says what is wrong with them."""


def item_features(
    items: ItemTable, vectors: ItemVectors, model_config: ModelConfig
) -> ItemFeatures:
    """Return the features of all items, row i being item i; ids without an item stay zero.

    Of text and image vectors it has those that the model reads and at least one item has. Vectors
    are joined by id, on the CPU; row 0 is padding. Raises `TrainingDataError` where the model reads
    vectors that are not among `vectors`, and `ValueError` where an item's vector is not finite, or
    where no item has a fused one.
    """
    absent = [name for name in model_config.modalities if vectors.modality(name) is None]
    if absent:
        raise TrainingDataError(
            f"{model_config.name} reads {' and '.join(absent)} vectors, which were not given"
        )
    n_rows = int(items.item_id.max(initial=0)) + 1
    rows = items.item_id.astype(np.int64)
    vectors_ID, present_I = _by_id(items, vectors.fused)
    if not present_I.any():
        raise ValueError(
            f"none of the {len(items)} items has a vector in {vectors.fused.identity}; "
            "the vectors were made from another catalogue: materialise them again"
        )
    levels_2I = np.zeros((2, n_rows), np.int64)
    levels_2I[:, rows] = items.likes_level, items.views_level
    modalities = {}
    for name in model_config.modalities:
        table = vectors.modality(name)
        assert table is not None
        modality_ID, has_modality_I = _by_id(items, table)
        if has_modality_I.any():
            modalities[f"{name}_vectors_ID"] = torch.from_numpy(modality_ID)
            modalities[f"{name}_present_I"] = torch.from_numpy(has_modality_I)
    return ItemFeatures(
        vectors_ID=torch.from_numpy(vectors_ID),
        present_I=torch.from_numpy(present_I),
        likes_level_I=torch.from_numpy(levels_2I[0]),
        views_level_I=torch.from_numpy(levels_2I[1]),
        tags_IK=torch.from_numpy(_tags(items, n_rows)),
        **modalities,
    )


def _by_id(items: ItemTable, vectors: VectorTable) -> tuple[np.ndarray, np.ndarray]:
    """Return `(I, D) float32` and the mask `(I,)`, row i being item i."""
    found = vectors.aligned_to(items.item_id)
    finite_M = np.isfinite(found.vectors).all(axis=1)
    if not finite_M.all():
        raise ValueError(
            f"{int((~finite_M).sum())} item vectors of {vectors.identity} are not finite, first "
            f"that of item {items.item_id[np.argmin(finite_M)]}; materialise the vectors again"
        )
    n_rows = int(items.item_id.max(initial=0)) + 1
    vectors_ID = np.zeros((n_rows, vectors.dim), np.float32)
    present_I = np.zeros(n_rows, bool)
    vectors_ID[items.item_id], present_I[items.item_id] = found.vectors, found.present
    return vectors_ID, present_I


def _tags(items: ItemTable, n_rows: int) -> np.ndarray:
    """Return the first tags of each item, `(I, K) int64`, filled up with 0."""
    lengths = np.minimum(items.tags.lengths, MAX_TAGS)
    tags_IK = np.zeros((n_rows, int(lengths.max(initial=0))), np.int64)
    for place in range(tags_IK.shape[1]):
        has_tag = lengths > place
        first = items.tags.offsets[:-1][has_tag]
        tags_IK[items.item_id[has_tag], place] = items.tags.values[first + place]
    return tags_IK


_SHARE_OF_DEVICE = 0.5
"""Share of the device's free memory that a split may take."""

_LEAST_SPARE_STEP = 64
_SHARED_STEP = 1024
_CAPACITY_RESERVE = 1.05
"""A capacity for CUDA graphs over the largest batch so far, so that it seldom has to grow."""


class BatchSource:
    """One split; histories are stored once each and stay ragged.

    The rows lie on the device, or in the host's memory where they would take more than half of what
    is free there; batches then travel through pinned memory. They are cut by index operations
    alone: no worker processes, no Python per row.
    """

    def __init__(
        self,
        split: Split,
        histories: Ragged,
        items: ItemFeatures,
        device: torch.device,
        max_history: int | None = None,
    ) -> None:
        """Copy `split` and `histories` to where they stay; `items` must be on `device` already.

        With `max_history` only so many of the newest items of each history are there.
        """
        if max_history is not None:
            histories = histories.newest(max_history)
        arrays = {
            name: array
            for name, array in (
                ("user_id", split.user_id),
                ("item_id", split.item_id),
                ("history", split.history),
                ("likes_level", split.likes_level),
                ("views_level", split.views_level),
                ("label", split.label),
                ("values", histories.values),
                ("offsets", histories.offsets),
            )
            if array is not None
        }
        self._device = device
        self._home = _home_of(sum(array.nbytes for array in arrays.values()), device)
        self._columns = {name: self._resident(array) for name, array in arrays.items()}
        self._items = items
        # Known here, the size of a batch need never be asked of the device.
        self._length_N = torch.from_numpy(histories.lengths[split.history])
        self._capacity = 0

    def _resident(self, array: np.ndarray) -> torch.Tensor:
        # Arrays from Arrow are read-only, which torch refuses to share silently.
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self._home)

    def __len__(self) -> int:
        return len(self._columns["item_id"])

    @property
    def device(self) -> torch.device:
        """Where batches arrive."""
        return self._device

    def batch(self, rows_B: torch.Tensor, n_positions: int | None = None) -> Batch:
        """Return the rows at the positions `rows_B` (`(B,) int64` on the CPU), in that order.

        With `n_positions` the histories get spare positions up to that number.
        """
        n_real = int(self._length_N[rows_B].sum())
        return self._batch(rows_B.to(self._home), n_real, n_positions or n_real)

    def _batch(
        self, rows_B: torch.Tensor, n_real: int, n_positions: int, share: bool = False
    ) -> Batch:
        """Return a batch of `n_real` positions, and spare ones up to `n_positions`.

        With `share` equal histories of consecutive rows are one, and the numbers follow from that.
        """
        columns = {
            name: self._columns[name][rows_B]
            for name in ("user_id", "item_id", "likes_level", "views_level", "label")
            if name in self._columns
        }
        history_H, history_row_B = self._columns["history"][rows_B].long(), None
        if share:
            history_H, history_row_B = history_H.unique_consecutive(return_inverse=True)
        start_H = self._columns["offsets"][history_H]
        offsets = torch.zeros(len(history_H) + 1, dtype=torch.int64, device=self._home)
        torch.cumsum(self._columns["offsets"][history_H + 1] - start_H, 0, out=offsets[1:])
        if share:
            n_real = int(offsets[-1])
            n_positions = -(-n_real // _SHARED_STEP) * _SHARED_STEP
        row_T = torch.repeat_interleave(offsets.diff(), output_size=n_real)
        position_T = (start_H - offsets[:-1])[row_T] + torch.arange(n_real, device=self._home)
        history_T = self._columns["values"][position_T].long()
        history_T = torch.nn.functional.pad(history_T, (0, n_positions - n_real))

        def arrived(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            tensor = tensor.to(dtype)
            if self._home == self._device:
                return tensor
            return tensor.pin_memory().to(self._device, non_blocking=True)

        return Batch(
            user_id_B=arrived(columns["user_id"], torch.int64),
            item_id_B=arrived(columns["item_id"], torch.int64),
            likes_level_B=arrived(columns["likes_level"], torch.int64),
            views_level_B=arrived(columns["views_level"], torch.int64),
            history_T=arrived(history_T, torch.int64),
            history_offsets=arrived(offsets, torch.int64),
            items=self._items,
            label_B=arrived(columns["label"], torch.float32) if "label" in columns else None,
            history_row_B=history_row_B,
        )

    def in_order(self, batch_size: int, share: bool = False) -> Iterator[Batch]:
        """Yield every row once, in the order of the split.

        With `share` consecutive rows of one history share it, but on the CPU alone: elsewhere
        finding them would make the host wait.
        """
        share = share and self._device.type == "cpu"
        return self._batches(torch.arange(len(self)), batch_size, share)

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield every row once in an order that follows from `seed` and `epoch` alone.

        The last batch may be smaller; it is left out where it has a single row, of which
        BatchNorm knows no variance.
        """
        generator = torch.Generator().manual_seed(derived_seed(seed, epoch) >> 1)
        order_N = torch.randperm(len(self), generator=generator)
        return (batch for batch in self._batches(order_N, batch_size) if len(batch) > 1)

    def _batches(
        self, order_N: torch.Tensor, batch_size: int, share: bool = False
    ) -> Iterator[Batch]:
        """Yield batches in few shapes: one for CUDA graphs, a handful for the CPU's libraries."""
        sizes = [int(length_B.sum()) for length_B in self._length_N[order_N].split(batch_size)]
        step = max(_LEAST_SPARE_STEP, batch_size // 4)
        if self._device.type == "cuda":
            largest = max(sizes, default=0)
            if largest > self._capacity:
                self._capacity = -(-int(largest * _CAPACITY_RESERVE) // step) * step
            step = max(self._capacity, step)
        rows = order_N.to(self._home).split(batch_size)
        for rows_B, size in zip(rows, sizes, strict=True):
            yield self._batch(rows_B, size, -(-size // step) * step, share)


def _home_of(n_bytes: int, device: torch.device) -> torch.device:
    if device.type == "cuda" and n_bytes > _SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]:
        return torch.device("cpu")
    return device
