"""Similarity of two items by the users they share, excluding the row's own user."""

from typing import Any

import torch
from torch import nn

from mmctr_pipeline.data.co_interactions import CoInteractions
from mmctr_pipeline.models.layers.embedding import known_rows


class CoInteractionSimilarity(nn.Module):
    """Looks up how many users other than the row's own interacted with both of two items.

    The counts are those of the train rows (`CoInteractions`), kept as buffers. For a train row they
    would reveal the label, since a clicked target is counted. So the interactions of the row's user
    are subtracted, for train rows and for rows to score alike. Before `fit` all counts are zero.
    """

    interaction_E: torch.Tensor
    users_of_item_I: torch.Tensor
    pair_P: torch.Tensor
    users_of_pair_P: torch.Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self._n_items = n_items
        self.register_buffer("interaction_E", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("users_of_item_I", torch.zeros(n_items, dtype=torch.int32))
        self.register_buffer("pair_P", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("users_of_pair_P", torch.zeros(0, dtype=torch.int32))

    def fit(self, counts: CoInteractions) -> None:
        """Store the counts; raises `ValueError` if they belong to another item table."""
        if counts.n_items != self._n_items:
            raise ValueError(f"counts of {counts.n_items} items for a model of {self._n_items}")
        for name, buffer in list(self.named_buffers()):
            setattr(self, name, torch.from_numpy(getattr(counts, name)).to(buffer.device))

    def forward(
        self, user_T: torch.Tensor, target_T: torch.Tensor, item_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cosine of target and item as sets of users, and the log of 1 + shared users.

        Takes ids, `(T,) int64` each, and returns `(T,) float32` each, the cosine in [0, 1]. Ids
        beyond the table, and 0, share no users.
        """
        has_target_T = self._has(user_T, target_T)
        has_item_T = self._has(user_T, item_T)
        low_T, high_T = torch.minimum(target_T, item_T), torch.maximum(target_T, item_T)
        shared_T = self._count(low_T * self._n_items + high_T)
        shared_T = shared_T - (has_target_T & has_item_T).int()
        within_T = (low_T > 0) & (high_T < self._n_items) & (low_T != high_T)
        shared_T = torch.where(within_T, shared_T, 0).float()
        users_T = self._other_users(target_T, has_target_T) * self._other_users(item_T, has_item_T)
        return shared_T / users_T.sqrt(), torch.log1p(shared_T)

    def _has(self, user_T: torch.Tensor, item_T: torch.Tensor) -> torch.Tensor:
        """Return whether the user interacted with the item, `(T,) bool`."""
        found_T = _find(self.interaction_E, user_T * self._n_items + item_T)[1]
        return found_T & (item_T < self._n_items)

    def _other_users(self, item_T: torch.Tensor, has_item_T: torch.Tensor) -> torch.Tensor:
        """Return the number of other users of each item, at least one, `(T,) float32`."""
        row_T = known_rows(item_T, self._n_items)
        return (self.users_of_item_I[row_T] - has_item_T.int()).clamp_min(1).float()

    def _count(self, key_T: torch.Tensor) -> torch.Tensor:
        """Return the number of users of each pair of items, `(T,) int32`."""
        if len(self.pair_P) == 0:
            return torch.zeros_like(key_T, dtype=torch.int32)
        position_T, found_T = _find(self.pair_P, key_T)
        return torch.where(found_T, self.users_of_pair_P[position_T], 0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # The number of pairs depends on the data; torch would refuse buffers of another size.
        for name, buffer in list(self.named_buffers()):
            if (saved := state_dict.get(prefix + name)) is not None and name != "users_of_item_I":
                setattr(self, name, torch.empty_like(saved, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _find(sorted_K: torch.Tensor, key_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the index of each key, or where it would be inserted, and whether it is present."""
    if len(sorted_K) == 0:
        return torch.zeros_like(key_T), torch.zeros_like(key_T, dtype=torch.bool)
    position_T = torch.searchsorted(sorted_K, key_T).clamp_max(len(sorted_K) - 1)
    return position_T, sorted_K[position_T] == key_T
