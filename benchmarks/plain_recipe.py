"""Recipe A in the plain form of its notebook.

The benchmarks `train`, `score` and `parity` compare ours with it.

Histories are left-padded with zeros to 100 items. A data set returns one row at a time, and a
`DataLoader` with two workers stacks the rows. Tables have dense gradients, and everything is
float32. It has every advantage that a careful author would give it: rows are kept as tensors,
padding is done beforehand, and item vectors are stored with the model.
"""

from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.utils.data import DataLoader, Dataset

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.config import ImprovedMmctrConfig
from mmctr_pipeline.training.batch_source import feature_spec

HISTORY_LENGTH = 100
BATCH_SIZE = 2048
LABEL_SMOOTHING = 0.05

Row = dict[str, torch.Tensor]


class PlainRows(Dataset[Row]):
    """One split; a row has ids and levels (`() int64`), a history (`(100,) int64`) and a label."""

    def __init__(self, split: Split, histories: Ragged) -> None:
        """Pad every history; raises `ValueError` if the split has no labels."""
        if split.label is None:
            raise ValueError("the split has no labels")
        self.user_id = torch.from_numpy(split.user_id.astype(np.int64))
        self.item_id = torch.from_numpy(split.item_id.astype(np.int64))
        self.likes_level = torch.from_numpy(split.likes_level.astype(np.int64))
        self.views_level = torch.from_numpy(split.views_level.astype(np.int64))
        self.history = torch.from_numpy(padded(histories.take(split.history)))
        self.label = torch.from_numpy(split.label.astype(np.float32))

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, row: int) -> Row:
        return {
            "user_id": self.user_id[row],
            "item_id": self.item_id[row],
            "likes_level": self.likes_level[row],
            "views_level": self.views_level[row],
            "history": self.history[row],
            "label": self.label[row],
        }


def padded(histories: Ragged) -> np.ndarray:
    """Return the newest 100 items of each history, with zeros before shorter ones, `(N, 100)`."""
    table = np.zeros((len(histories), HISTORY_LENGTH), dtype=np.int64)
    row = np.repeat(np.arange(len(histories)), histories.lengths)
    column = HISTORY_LENGTH - histories.offsets[1:][row] + np.arange(len(histories.values))
    newest = column >= 0
    table[row[newest], column[newest]] = histories.values[newest]
    return table


def loader(rows: PlainRows, shuffle: bool, device: torch.device) -> DataLoader[Row]:
    """Return the notebook's loader: two workers, batches of 2,048."""
    return DataLoader(
        rows,
        batch_size=BATCH_SIZE,
        shuffle=shuffle,
        num_workers=2,
        pin_memory=device.type == "cuda",
    )


def standardised_vectors(items: ItemTable, vectors: ItemVectors) -> torch.Tensor:
    """Return the vector of each item, `(I, D) float32`, at its table row, `items.item_id`.

    They are standardised over the items that have one; the others have zeros.
    """
    found = vectors.fused.aligned_to(items.ids)
    real = found.vectors[found.present].astype(np.float64)
    table = np.zeros((int(items.item_id.max()) + 1, found.dim), np.float32)
    table[items.item_id[found.present]] = (real - real.mean(axis=0)) / real.std(axis=0)
    return torch.from_numpy(table)


class PlainRecipe(nn.Module):
    """The notebook's `ImprovedMMCTRModel`; its parameters have the same names as in ours."""

    vectors: torch.Tensor

    def __init__(self, n_users: int, n_items: int, vectors: torch.Tensor) -> None:
        """Build the layers; `vectors` come from `standardised_vectors`."""
        super().__init__()
        self.user_embedding = nn.Embedding(n_users, 64, padding_idx=0)
        self.item_embedding = nn.Embedding(n_items, 64, padding_idx=0)
        self.likes_embedding = nn.Embedding(11, 32)
        self.views_embedding = nn.Embedding(11, 32)
        self.register_buffer("vectors", vectors, persistent=False)
        self.multimodal = nn.Sequential(
            nn.Linear(vectors.shape[1], 64), nn.LayerNorm(64), nn.ReLU(), nn.Dropout(0.2)
        )
        self.history_pooling = PlainAttentionPooling()
        self.user_item = nn.Bilinear(64, 64, 64)
        self.history_item = nn.Bilinear(64, 64, 64)
        self.input_norm = nn.BatchNorm1d(448)
        layers: list[nn.Module] = []
        for n_in, n_out in ((448, 512), (512, 256), (256, 128)):
            layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU(), nn.Dropout(0.3)]
        self.tower = nn.Sequential(*layers, nn.Linear(128, 1))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.xavier_normal_(module.weight)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.user_embedding.weight[0] = 0
            self.item_embedding.weight[0] = 0

    @classmethod
    def for_dataset(cls, dataset: CtrDataset, vectors: ItemVectors) -> Self:
        """Return a new model for a dataset and its item vectors."""
        spec = feature_spec(dataset, vectors, ImprovedMmctrConfig())
        return cls(spec.n_users, spec.n_items, standardised_vectors(dataset.items, vectors))

    def load_ours(self, state: dict[str, torch.Tensor]) -> None:
        """Load the weights of an `ImprovedMmctr`, except its vector statistics."""
        self.load_state_dict(
            {name: value for name, value in state.items() if not name.startswith("vector_scaling")}
        )

    def forward(self, batch: Row) -> torch.Tensor:
        """Return logits `(B,)`."""
        user = self.user_embedding(batch["user_id"])
        item = self.item_embedding(batch["item_id"])
        history = self.history_pooling(self.item_embedding(batch["history"]), batch["history"] != 0)
        features = torch.cat(
            [
                user,
                item,
                history,
                self.likes_embedding(batch["likes_level"]),
                self.views_embedding(batch["views_level"]),
                self.multimodal(self.vectors[batch["item_id"]]),
                self.user_item(user, item),
                self.history_item(history, item),
            ],
            dim=1,
        )
        return self.tower(self.input_norm(features)).squeeze(-1)


class PlainAttentionPooling(nn.Module):
    """Weighted sum over all 100 positions, with weights by a softmax over the real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 32)
        self.score = nn.Linear(32, 1)

    def forward(self, values: torch.Tensor, is_real: torch.Tensor) -> torch.Tensor:
        """Return `(B, 64)` from `(B, 100, 64)`; zero for a row without a real position."""
        scores = self.score(torch.tanh(self.hidden(values))).squeeze(-1)
        # With minus infinity instead of -1e9, an empty history would give NaN. With -1e9 it gives
        # zero, since its values are all zero.
        weights = torch.softmax(scores.masked_fill(~is_real, -1e9), dim=1)
        return (values * weights.unsqueeze(-1)).sum(dim=1)


class PlainTraining:
    """The notebook's optimiser, schedule and training step."""

    def __init__(self, model: PlainRecipe, device: torch.device) -> None:
        self.model, self.device = model.to(device), device
        multimodal = list(model.multimodal.parameters())
        multimodal_ids = {id(parameter) for parameter in multimodal}
        main = [p for p in model.parameters() if id(p) not in multimodal_ids]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": main, "lr": 2e-3, "weight_decay": 1e-4},
                {"params": multimodal, "lr": 5e-4, "weight_decay": 1e-5},
            ]
        )
        self.schedule = CosineAnnealingWarmRestarts(self.optimizer, T_0=5, T_mult=2, eta_min=1e-6)

    def epoch(self, batches: DataLoader[Row]) -> Iterator[int]:
        """Train on every batch, yielding its number of rows; then advance the schedule."""
        self.model.train()
        for batch in batches:
            batch = _on(self.device, batch)
            self.optimizer.zero_grad()
            target = batch["label"] * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / 2
            logits = self.model(batch)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            # The notebook reads its loss too, which waits until a GPU has finished the step.
            if not np.isfinite(loss.item()):
                raise RuntimeError("the loss of the plain form is not finite")
            yield len(target)
        self.schedule.step()


@torch.no_grad()
def plain_scores(model: PlainRecipe, batches: DataLoader[Row], device: torch.device) -> np.ndarray:
    """Return click probabilities `(N,) float32` in the loader's order."""
    model.eval()
    return torch.cat([torch.sigmoid(model(_on(device, b))).cpu() for b in batches]).numpy()


def _on(device: torch.device, batch: Row) -> Row:
    return {name: values.to(device, non_blocking=True) for name, values in batch.items()}
