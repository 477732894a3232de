"""Inputs of CTR training: item features, and batches cut from a split by index operations alone."""

from collections.abc import Iterator

import numpy as np
import torch

from mmctr_pipeline.data.click_rates import fold_columns
from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.models.batch import Batch, FeatureSpec, ItemFeatures
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.training.device import derived_seed
from mmctr_pipeline.training.ranks import ALONE, Ranks

MAX_TAGS = 8
"""A model sees this many tags of each item, the first ones; more would widen every item's row."""


class TrainingDataError(ValueError):
    """The data cannot be trained or validated on; the message says why."""


def feature_spec(
    dataset: CtrDataset, vectors: ItemVectors, model_config: ModelConfig
) -> FeatureSpec:
    """Return the table sizes that `dataset` needs, and the widths of the vectors.

    A modality that the model does not read, or that no item has, gets width 0.
    """
    tables = {name: vectors.modality(name) for name in model_config.modalities}
    dims = {
        f"{name}_dim": table.dim
        for name, table in tables.items()
        if table and table.aligned_to(dataset.items.ids).present.any()
    }
    return FeatureSpec(
        n_users=1 + max(int(split.user_id.max(initial=0)) for split in dataset.splits.values()),
        n_items=1 + int(dataset.items.item_id.max(initial=0)),
        vector_dim=vectors.fused.dim,
        n_tags=1 + int(dataset.items.tags.values.max(initial=0)),
        **dims,
    )


def item_features(
    items: ItemTable, vectors: ItemVectors, model_config: ModelConfig
) -> ItemFeatures:
    """Return the features of all items on the CPU, by table row; rows without an item are zero.

    Vectors are joined by the data's ids. Text and image vectors are included if the model reads
    them and at least one item has one. Raises `TrainingDataError` if the model reads vectors that
    are not given, if a vector is not finite, and if no item has a fused vector.
    """
    tables = {name: vectors.modality(name) for name in model_config.modalities}
    missing = [name for name, table in tables.items() if table is None]
    if missing:
        raise TrainingDataError(
            f"{model_config.name} reads {' and '.join(missing)} vectors, which were not given"
        )
    tensors = {}
    for name, table in {"": vectors.fused, **tables}.items():
        assert table is not None
        vectors_ID, present_I = _by_id(items, table)
        if present_I.any():
            prefix = f"{name}_" if name else ""
            tensors[f"{prefix}vectors_ID"] = torch.from_numpy(vectors_ID)
            tensors[f"{prefix}present_I"] = torch.from_numpy(present_I)
    if "present_I" not in tensors:
        raise TrainingDataError(
            f"none of the {len(items)} items has a vector in {vectors.fused.identity}: "
            "the vectors belong to another catalogue; materialise them again"
        )
    levels_2I = np.zeros((2, _n_rows(items)), np.int64)
    levels_2I[:, items.item_id] = items.likes_level, items.views_level
    likes_level_I, views_level_I = torch.from_numpy(levels_2I)
    tags_IK = torch.from_numpy(_tags(items))
    return ItemFeatures(
        likes_level_I=likes_level_I, views_level_I=views_level_I, tags_IK=tags_IK, **tensors
    )


def _n_rows(items: ItemTable) -> int:
    return int(items.item_id.max(initial=0)) + 1


def _by_id(items: ItemTable, vectors: VectorTable) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors `(I, D) float32` and whether each is present, `(I,) bool`, by table row."""
    found = vectors.aligned_to(items.ids)
    finite_M = np.isfinite(found.vectors).all(axis=1)
    if not finite_M.all():
        raise TrainingDataError(
            f"{int((~finite_M).sum())} item vectors of {vectors.identity} are not finite, the "
            f"first is that of item {items.ids[np.argmin(finite_M)]}; materialise them again"
        )
    vectors_ID = np.zeros((_n_rows(items), vectors.dim), np.float32)
    present_I = np.zeros(len(vectors_ID), bool)
    vectors_ID[items.item_id], present_I[items.item_id] = found.vectors, found.present
    return vectors_ID, present_I


def _tags(items: ItemTable) -> np.ndarray:
    """Return the first tags of each item, `(I, K) int64`, padded with 0."""
    tags, lengths = items.tags, items.tags.lengths
    item_T = np.repeat(items.item_id, lengths)
    position_T = np.arange(len(tags.values)) - np.repeat(tags.offsets[:-1], lengths)
    kept_T = position_T < MAX_TAGS
    tags_IK = np.zeros((_n_rows(items), min(int(lengths.max(initial=0)), MAX_TAGS)), np.int64)
    tags_IK[item_T[kept_T], position_T[kept_T]] = tags.values[kept_T]
    return tags_IK


_SHARE_OF_DEVICE = 0.5
"""Share of the device's free memory that a split may take."""

_LEAST_SPARE_STEP = 64
_SHARED_STEP = 1024
_CAPACITY_RESERVE = 1.05
"""Capacity for CUDA graphs relative to the largest batch so far, so that it seldom has to grow."""


class BatchSource:
    """Batches of one split; histories are stored once each and stay ragged.

    The rows stay on the device, or in the host's memory if they would take more than half of the
    device's free memory; batches then travel through pinned memory. Batches are cut by index
    operations alone, without worker processes or Python code per row. `has_one_history` is True if
    all rows have the same history.
    """

    def __init__(
        self,
        split: Split,
        histories: Ragged,
        items: ItemFeatures,
        device: torch.device,
        max_history: int | None = None,
        folds: bool = False,
    ) -> None:
        """Copy the rows to where they stay.

        Parameters
        ----------
        split, histories
            Rows, and the histories they refer to.
        items
            Item features, already on `device`.
        device
            Where batches are needed.
        max_history
            Number of newest items of each history that batches contain; None for all.
        folds
            Whether the model counts the labels of these rows. Each row then reads click rates that
            leave out its own fold.
        """
        if max_history is not None:
            histories = histories.newest(max_history)
        arrays = {**split.columns, "values": histories.values, "offsets": histories.offsets}
        arrays.pop("row_id", None)
        if folds:
            arrays |= fold_columns(split.user_id, split.item_id)
        self.device = device
        self._home = device
        if device.type == "cuda":
            n_bytes = sum(array.nbytes for array in arrays.values())
            if n_bytes > _SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]:
                self._home = torch.device("cpu")
        self._columns = {
            # Arrays from Arrow are read-only, and torch would warn about sharing their memory.
            name: torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self._home)
            for name, array in arrays.items()
        }
        self._items = items
        self.has_one_history = len(np.unique(split.history)) == 1
        # The host holds the lengths, so that it never has to ask the device for a batch's size.
        self._length_N = torch.from_numpy(histories.lengths[split.history])
        self._capacity = 0

    def __len__(self) -> int:
        return len(self._columns["item_id"])

    def in_order(self, batch_size: int, share: bool = False) -> Iterator[Batch]:
        """Yield every row once, in the order of the split.

        With `share`, consecutive rows with the same history share one copy of it. This applies on
        the CPU only, as finding such rows on another device would make the host wait.
        """
        share = share and self.device.type == "cpu"
        return self._batches(torch.arange(len(self)), batch_size, share)

    def shuffled(
        self, batch_size: int, seed: int, epoch: int, ranks: Ranks = ALONE
    ) -> Iterator[Batch]:
        """Yield every row once, in an order that depends on `seed` and `epoch` alone.

        The last batch may be smaller. It is dropped if it has a single row, for which BatchNorm
        could not take a variance.

        Parameters
        ----------
        batch_size
            Rows of a batch over all ranks.
        seed, epoch
            Choose the order.
        ranks
            Processes that divide each batch; this one yields its share.
        """
        generator = torch.Generator().manual_seed(derived_seed(seed, epoch) >> 1)
        order_N = torch.randperm(len(self), generator=generator)
        order_N, share = ranks.divided(order_N, batch_size)
        batches = self._batches(order_N, share)
        return (batch for batch in batches if ranks.count * len(batch) > 1)

    def _batches(
        self, order_N: torch.Tensor, batch_size: int, share: bool = False
    ) -> Iterator[Batch]:
        """Yield batches with few shapes: one for CUDA graphs, a handful for CPU libraries."""
        sizes = [int(length_B.sum()) for length_B in self._length_N[order_N].split(batch_size)]
        step = max(_LEAST_SPARE_STEP, batch_size // 4)
        if self.device.type == "cuda":
            largest = max(sizes, default=0)
            if largest > self._capacity:
                self._capacity = _round_up(int(largest * _CAPACITY_RESERVE), step)
            step = max(self._capacity, step)
        rows = order_N.to(self._home).split(batch_size)
        for rows_B, size in zip(rows, sizes, strict=True):
            yield self._batch(rows_B, size, _round_up(size, step), share)

    def _batch(self, rows_B: torch.Tensor, n_real: int, n_positions: int, share: bool) -> Batch:
        """Return the rows at `rows_B` with `n_real` history positions, padded to `n_positions`.

        With `share`, consecutive equal histories are merged, and both numbers are counted again.
        """
        history_H, history_row_B = self._columns["history"][rows_B].long(), None
        if share:
            history_H, history_row_B = history_H.unique_consecutive(return_inverse=True)
        start_H = self._columns["offsets"][history_H]
        offsets = torch.zeros(len(history_H) + 1, dtype=torch.int64, device=self._home)
        torch.cumsum(self._columns["offsets"][history_H + 1] - start_H, 0, out=offsets[1:])
        if share:
            n_real = int(offsets[-1])
            # All rows have one history: its spare positions would be computed for each row.
            n_positions = _round_up(n_real, _SHARED_STEP if len(history_H) > 1 else 1)
        row_T = torch.repeat_interleave(offsets.diff(), output_size=n_real)
        position_T = (start_H - offsets[:-1])[row_T] + torch.arange(n_real, device=self._home)
        history_T = self._columns["values"][position_T].long()
        history_T = torch.nn.functional.pad(history_T, (0, n_positions - n_real))

        def column(name: str, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return self._on_device(self._columns[name][rows_B].to(dtype))

        return Batch(
            user_id_B=column("user_id"),
            item_id_B=column("item_id"),
            likes_level_B=column("likes_level"),
            views_level_B=column("views_level"),
            history_T=self._on_device(history_T),
            history_offsets=self._on_device(offsets),
            items=self._items,
            label_B=column("label", torch.float32) if "label" in self._columns else None,
            history_row_B=history_row_B,
            row_fold_B=column("row_fold") if "row_fold" in self._columns else None,
            user_fold_B=column("user_fold") if "user_fold" in self._columns else None,
        )

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._home == self.device:
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
