"""Counts of the users who interacted with both items of a pair, in the rows a model trains on."""

import dataclasses

import numpy as np

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged


@dataclasses.dataclass(frozen=True)
class CoInteractions:
    """Distinct interactions of users with items, and pairs of items that share users.

    A user has interacted with the items in the histories of their train rows, and with the targets
    they clicked. I is `n_items`; all ids are below it. `interaction_E` has the distinct
    interactions as `user * I + item`, `users_of_item_I` the number of users of each item, `pair_P`
    the pairs as `a * I + b` with a < b, and `users_of_pair_P` the number of users of both items.
    Keys are int64 and ascending; counts are int32.
    """

    n_items: int
    interaction_E: np.ndarray
    users_of_item_I: np.ndarray
    pair_P: np.ndarray
    users_of_pair_P: np.ndarray


def count_co_interactions(train: Split, histories: Ragged, n_items: int) -> CoInteractions:
    """Count over the rows of `train`, whose `history` indexes `histories`.

    Raises `ValueError` if the rows have no labels.
    """
    interaction_E = distinct_interactions(train, histories, n_items)
    pair_P, users_of_pair_P = _pairs(interaction_E, n_items)
    return CoInteractions(
        n_items=n_items,
        interaction_E=interaction_E,
        users_of_item_I=np.bincount(interaction_E % n_items, minlength=n_items).astype(np.int32),
        pair_P=pair_P,
        users_of_pair_P=users_of_pair_P,
    )


def distinct_interactions(train: Split, histories: Ragged, n_items: int) -> np.ndarray:
    """Return the distinct interactions as `user * n_items + item`, `(E,) int64`, ascending.

    Raises `ValueError` if the rows have no labels.
    """
    if train.label is None:
        raise ValueError("co-interactions need labelled rows; these have no labels")
    n_histories = max(len(histories), 1)
    user = train.user_id.astype(np.int64)
    user_history = np.unique(user * n_histories + train.history)
    lists = histories.take(user_history % n_histories)
    watched = np.repeat(user_history // n_histories, lists.lengths) * n_items + lists.values
    is_clicked = train.label == 1
    clicked = user[is_clicked] * n_items + train.item_id[is_clicked]
    return np.unique(np.concatenate([watched, clicked]))


def _pairs(interaction_E: np.ndarray, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct pairs of items that share a user, as keys, and their numbers of users."""
    # Imported here: training without co-interactions needs no SciPy.
    from scipy import sparse

    user_E, item_E = np.divmod(interaction_E, n_items)
    n_users = int(user_E.max(initial=0)) + 1
    ones_E = np.ones(len(interaction_E), np.int32)
    has_UI = sparse.csr_array((ones_E, (user_E, item_E)), shape=(n_users, n_items))
    users_II = sparse.triu(has_UI.T @ has_UI, k=1, format="csr")
    users_II.sort_indices()
    first_P = np.repeat(np.arange(n_items, dtype=np.int64), np.diff(users_II.indptr))
    return first_P * n_items + users_II.indices, users_II.data
