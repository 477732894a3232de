"""Shared parts of the plain padded forms of `din`, `qin` and `transformer_dcn`.

A plain form is code as commonly written with FuxiCTR: histories are padded to a rectangle of item
ids, every feature is embedded at every position, tables have dense gradients, the optimiser is
`torch.optim.Adam`, all in float32. It is not made slow on purpose: rows are tensors padded
beforehand, batches are cut by index operations, and item vectors and tags are stored with the
model. Needs the `bench` extra.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_recipe import HISTORY_LENGTH, PlainRows, Row
from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.features import FeatureEmbedding
from mmctr_pipeline.models.layers.vector_inputs import VectorProjection
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.losses import smoothed_binary_cross_entropy


class PaddedRows(PlainRows):
    """One split with histories `(N, width) int64`: zeros, then the newest items."""

    def __init__(self, split: Split, histories: Ragged, width: int) -> None:
        """Raise `ValueError` for a width beyond that of `PlainRows`."""
        if width > HISTORY_LENGTH:
            raise ValueError(f"histories are padded to {HISTORY_LENGTH} items, not to {width}")
        super().__init__(split, histories)
        self.history = self.history[:, -width:].contiguous()

    def __getitems__(self, rows: list[int]) -> Row:
        """Return a whole batch, which is faster than stacking single rows."""
        row_B = torch.tensor(rows)
        return {
            "item_id": self.item_id[row_B],
            "likes_level": self.likes_level[row_B],
            "views_level": self.views_level[row_B],
            "history": self.history[row_B],
            "label": self.label[row_B],
        }


def padded_batches(
    rows: PaddedRows, batch_size: int, device: torch.device, shuffle: bool = True
) -> DataLoader[Row]:
    """Return a loader with two workers; if it shuffles, it drops an incomplete last batch."""
    return DataLoader(
        rows,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=shuffle,
        num_workers=2,
        persistent_workers=True,
        collate_fn=_unchanged,
        pin_memory=device.type == "cuda",
    )


def padded_rows(batch: Batch, width: int) -> Row:
    """Return one of our batches with histories `(B, width) int64`, padded with zeros at the end."""
    position_L = torch.arange(width, device=batch.history_T.device)
    is_real_BL = position_L < batch.history_offsets.diff().unsqueeze(1)
    # `masked_scatter` fills row by row, in the order of the ragged histories.
    history_BL = is_real_BL.long().masked_scatter(is_real_BL, batch.history_T)
    rows = {
        "item_id": batch.item_id_B,
        "likes_level": batch.likes_level_B,
        "views_level": batch.views_level_B,
        "history": history_BL,
    }
    return rows if batch.label_B is None else {**rows, "label": batch.label_B}


def _unchanged(batch: Row) -> Row:
    return batch


class PlainFeatures(nn.Module):
    """Features of targets, padded histories and context, equal to those of `FeatureEmbedding`.

    An item has the embedding of its id, the mean embedding of its tags, and its vector times a
    learned matrix. As in FuxiCTR's vocabularies, all unknown items share one row of the id table.
    """

    row_I: torch.Tensor
    tags_IK: torch.Tensor
    vectors_ID: torch.Tensor

    def __init__(self, ours: FeatureEmbedding, items: ItemFeatures) -> None:
        """Build tables of the sizes in `ours`, with new weights.

        `ours.fit_statistics` must have been called: it finds the items that are known. Raises
        `ValueError` if `ours` has other features than those above.
        """
        super().__init__()
        from fuxictr.pytorch.layers import MaskedAveragePooling

        others = ours.item_likes or ours.user_id or ours.projection
        if others is not None or list(ours.vector_layers) != ["fused"]:
            raise ValueError("the plain form has only ids, tags, fused vectors and context levels")
        if not isinstance(ours.vector_layers["fused"], VectorProjection):
            raise ValueError("the plain form needs a learned matrix; set vector_projection to true")
        vectors_ID, _ = items.vectors_of("fused")
        self.item_id, self.tags = _table_like(ours.item_id), _table_like(ours.tags)
        self.matrix = nn.Linear(vectors_ID.shape[1], vectors_ID.shape[1], bias=False)
        self.likes, self.views = _table_like(ours.row_likes), _table_like(ours.row_views)
        self.mean = MaskedAveragePooling()
        n_known = len(ours.known_items_I)
        id_I = torch.arange(len(items.present_I))
        is_known_I = torch.zeros(len(id_I), dtype=torch.bool)
        is_known_I[:n_known] = ours.known_items_I
        is_known_I[0] = True  # padding
        self.register_buffer("row_I", torch.where(is_known_I, id_I, n_known), persistent=False)
        self.register_buffer("tags_IK", items.tags_IK, persistent=False)
        self.register_buffer("vectors_ID", vectors_ID, persistent=False)

    def forward(self, rows: Row) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return targets `(B, D)`, histories `(B, L, D)`, which positions are real, and context.

        The last two are `(B, L)` and `(B, C)`.
        """
        history_BL = rows["history"]
        item_BM = torch.cat([history_BL, rows["item_id"].unsqueeze(1)], dim=1)
        tags_ND = self.mean(self.tags(self.tags_IK[item_BM.flatten()]))
        features_BMD = torch.cat(
            [
                self.item_id(self.row_I[item_BM]),
                tags_ND.unflatten(0, item_BM.shape),
                self.matrix(self.vectors_ID[item_BM]),
            ],
            dim=2,
        )
        context_BC = torch.cat(
            [self.likes(rows["likes_level"]), self.views(rows["views_level"])], dim=1
        )
        return features_BMD[:, -1], features_BMD[:, :-1], history_BL != 0, context_BC


def _table_like(table: nn.Embedding | None) -> nn.Embedding:
    if table is None:
        raise ValueError("the plain form needs ids, tags and context levels; configure all of them")
    return nn.Embedding(table.num_embeddings, table.embedding_dim, table.padding_idx)


@torch.no_grad()
def take_weights(plain: nn.Module, ours: CtrModel) -> None:
    """Copy the weights and BatchNorm statistics of ours into a plain form.

    Raises `ValueError` unless both have the same parameters in the same order.
    """
    for mine, theirs in zip(plain.parameters(), ours.parameters(), strict=True):
        if mine.shape != theirs.shape:
            raise ValueError(
                f"a weight has shape {tuple(mine.shape)}, but {tuple(theirs.shape)} in our model"
            )
        mine.copy_(theirs)
    norms = (
        [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
        for model in (plain, ours)
    )
    for my_norm, their_norm in zip(*norms, strict=True):
        my_norm.load_state_dict(their_norm.state_dict())


class PaddedTraining:
    """Training with Adam, and with the loss and clipping of a preset.

    L2 is part of the gradient; tables and network each have their own.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, device: torch.device) -> None:
        """Move `model` to `device`; raises `ValueError` for a pairwise loss or without Adam."""
        if config.optimizer != "adam" or config.pairwise_weight:
            raise ValueError("a plain form is trained with Adam and without a pairwise loss")
        self.model, self.config, self.device = model.to(device), config, device
        tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
        # FuxiCTR counts the matrix applied to given vectors among the tables.
        tables += [
            module.matrix.weight for module in model.modules() if isinstance(module, PlainFeatures)
        ]
        table_ids = {id(weight) for weight in tables}
        network = [weight for weight in model.parameters() if id(weight) not in table_ids]
        self.optimizer = torch.optim.Adam(
            [
                {"params": network, "weight_decay": config.weight_decay},
                {"params": tables, "weight_decay": config.embedding_weight_decay},
            ],
            lr=config.learning_rate,
            fused=True,  # as ours
        )

    def steps(self, batches: DataLoader[Row]) -> Iterator[int]:
        """Train on every batch, epoch after epoch forever, and yield its number of rows."""
        for batch in itertools.chain.from_iterable(itertools.repeat(batches)):
            self.step(batch)
            yield len(batch["label"])

    def step(self, batch: Row) -> None:
        """Train on a batch; raise `RuntimeError` if the loss is not finite."""
        self.model.train()
        self.optimizer.zero_grad()
        loss = self._loss(self._on_device(batch))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip_norm)
        self.optimizer.step()
        # FuxiCTR's loop reads its loss too; this waits for a GPU to finish the step.
        if not np.isfinite(loss.item()):
            raise RuntimeError("the loss of the plain form is not finite")

    def operations_per_row(self, batch: Row) -> float:
        """Return the operations of the matrix products, forward and backward, as torch counts them.

        They include the work on padding. No weight is changed.
        """
        batch = self._on_device(batch)
        self.model.train()
        with FlopCounterMode(display=False) as counter:
            self._loss(batch).backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops() / len(batch["label"])

    def _loss(self, batch: Row) -> torch.Tensor:
        logits_B = self.model(batch)
        return smoothed_binary_cross_entropy(logits_B, batch["label"], self.config.label_smoothing)

    def _on_device(self, batch: Row) -> Row:
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
