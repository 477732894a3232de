"""Builds splits and histories from hand-written rows, and collects the items of each user."""

import numpy as np

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged

N_ITEMS = 12


def train_rows(
    rows: list[tuple[int, int, int, int]], lists: list[list[int]]
) -> tuple[Split, Ragged]:
    """Return a split, and the histories in `lists`.

    Each entry of `rows` is (user, target, label, number of the history in `lists`).
    """
    user, item, label, history = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    level = np.zeros(len(rows), np.int8)
    split = Split(user, item, history, level, level, label.astype(np.int8))
    return split, Ragged.from_lists(lists)


def items_by_user(train: Split, histories: Ragged) -> dict[int, set[int]]:
    """Return the items that each user has in a history or clicked."""
    assert train.label is not None
    items: dict[int, set[int]] = {}
    for row in range(len(train)):
        user_items = items.setdefault(int(train.user_id[row]), set())
        user_items.update(histories[train.history[row]].tolist())
        if train.label[row]:
            user_items.add(int(train.item_id[row]))
    return items
