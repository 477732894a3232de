"""A tiny click dataset for tests: items have one of four styles, and each user likes one style."""

import dataclasses

import numpy as np
import pyarrow as pa

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.models.config import ImprovedMmctrConfig
from mmctr_pipeline.training.config import TrainingConfig

N_STYLES = 4
VECTOR_DIM = 12

SMALL_MODEL = ImprovedMmctrConfig(
    embedding_dim=16,
    level_embedding_dim=4,
    multimodal_dim=8,
    attention_dim=8,
    hidden_dims=(32, 16),
)
QUICK_TRAINING = TrainingConfig(max_epochs=2, batch_size=256, patience=2)


def small_sample(
    n_train: int = 4000, n_valid: int = 1500, n_users: int = 400, n_items: int = 60, seed: int = 0
) -> tuple[CtrDataset, ItemVectors]:
    """Return a dataset whose valid and test users are not in train, and its fused vectors.

    A click is likely (0.9) if the target has the style of the user's history, and unlikely (0.1)
    otherwise. The first dimensions of an item's vector reveal its style. Item 1 has no vector, and
    every 50th history is empty.
    """
    generator = np.random.default_rng(seed)
    style = generator.integers(0, N_STYLES, n_items + 1)
    items_by_style = [np.flatnonzero(style[1:] == s) + 1 for s in range(N_STYLES)]
    user_style = generator.integers(0, N_STYLES, n_users)
    histories = [
        generator.choice(items_by_style[user_style[u]], generator.integers(2, 9)).tolist()
        if u % 50
        else []
        for u in range(n_users)
    ]

    def split(n_rows: int, first_user: int, last_user: int) -> Split:
        user = generator.integers(first_user, last_user, n_rows)
        item = generator.integers(1, n_items + 1, n_rows)
        probability = np.where(style[item] == user_style[user], 0.9, 0.1)
        return Split(
            user_id=(user + 1).astype(np.int32),
            item_id=item.astype(np.int32),
            history=user.astype(np.int32),
            likes_level=generator.integers(0, 11, n_rows).astype(np.int8),
            views_level=generator.integers(0, 11, n_rows).astype(np.int8),
            label=(generator.random(n_rows) < probability).astype(np.int8),
        )

    n_train_users = int(n_users * 0.75)
    test = dataclasses.replace(
        split(n_valid, n_train_users, n_users),
        label=None,
        row_id=np.arange(n_valid, dtype=np.int64),
    )
    dataset = CtrDataset(
        train=split(n_train, 0, n_train_users),
        valid=split(n_valid, n_train_users, n_users),
        test=test,
        items=ItemTable(
            ids=np.arange(1, n_items + 1),
            item_id=np.arange(1, n_items + 1, dtype=np.int32),
            title=pa.array([f"title {i}" for i in range(n_items)]),
            tags=Ragged.from_lists([[1]] * n_items),
            likes_level=np.zeros(n_items, np.int8),
            views_level=np.zeros(n_items, np.int8),
        ),
        histories=Ragged.from_lists(histories),
        fingerprint="small-sample",
    )
    vectors = generator.normal(0, 1, (n_items + 1, VECTOR_DIM)).astype(np.float32)
    vectors[np.arange(n_items + 1), style] += 4
    present = np.ones(n_items + 1, bool)
    present[:2] = False
    vectors[~present] = 0
    table = VectorTable(
        item_id=np.arange(n_items + 1, dtype=np.int32),
        vectors=vectors,
        present=present,
        identity="small-sample-vectors",
    )
    return dataset, ItemVectors(table)
