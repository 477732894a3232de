"""Similarity of two items by the users they share, without the user of the row in question."""

from typing import Any

import torch
from torch import nn

from mmctr_pipeline.data.co_interactions import CoInteractions
from mmctr_pipeline.models.layers.embedding import known_rows


class CoInteractionSimilarity(nn.Module):
    """Looks up how many users other than a row's own interacted with both of two items.

    The counts are those of the train rows (`CoInteractions`), kept as buffers. Of a train row they
    would tell the label, since a clicked target counts: so whatever the row's user did is taken
    out again, in train rows and in rows to be scored alike. Before `fit` all counts are zero.
    """

    interaction_E: torch.Tensor
    users_of_item_I: torch.Tensor
    pair_P: torch.Tensor
    users_of_pair_P: torch.Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self._n_items = n_items
        none = torch.zeros(0, dtype=torch.int64)
        self.register_buffer("interaction_E", none)
        self.register_buffer("users_of_item_I", torch.zeros(n_items, dtype=torch.int32))
        self.register_buffer("pair_P", none.clone())
        self.register_buffer("users_of_pair_P", none.to(torch.int32))

    def fit(self, counts: CoInteractions) -> None:
        """Take over the counts; raises `ValueError` where they are of another item table."""
        if counts.n_items != self._n_items:
            raise ValueError(f"counts of {counts.n_items} items for a model of {self._n_items}")
        device = self.pair_P.device
        for name in ("interaction_E", "users_of_item_I", "pair_P", "users_of_pair_P"):
            setattr(self, name, torch.from_numpy(getattr(counts, name)).to(device))

    def forward(
        self, user_T: torch.Tensor, target_T: torch.Tensor, item_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cosine of target and item as sets of users, and the log of 1 + shared users.

        Ids in, `(T,) int64` each; `(T,) float32` out, the cosine in [0, 1]. Ids beyond the table,
        and 0, share no users.
        """
        of_target_T = self._has(user_T, target_T)
        of_item_T = self._has(user_T, item_T)
        low_T, high_T = torch.minimum(target_T, item_T), torch.maximum(target_T, item_T)
        shared_T = self._count(low_T * self._n_items + high_T) - (of_target_T & of_item_T).int()
        within_T = (low_T > 0) & (high_T < self._n_items) & (low_T != high_T)
        shared_T = torch.where(within_T, shared_T, 0).float()
        users_T = self._users(target_T, of_target_T) * self._users(item_T, of_item_T)
        return shared_T / users_T.sqrt(), torch.log1p(shared_T)

    def _has(self, user_T: torch.Tensor, item_T: torch.Tensor) -> torch.Tensor:
        found_T = _find(self.interaction_E, user_T * self._n_items + item_T)[1]
        return found_T & (item_T < self._n_items)

    def _users(self, item_T: torch.Tensor, of_user_T: torch.Tensor) -> torch.Tensor:
        """Return the number of other users of each item, one at least, `(T,) float32`."""
        listed_T = known_rows(item_T, self._n_items)
        return (self.users_of_item_I[listed_T] - of_user_T.int()).clamp_min(1).float()

    def _count(self, key_T: torch.Tensor) -> torch.Tensor:
        place_T, found_T = _find(self.pair_P, key_T)
        if len(self.pair_P) == 0:
            return torch.zeros_like(key_T, dtype=torch.int32)
        return torch.where(found_T, self.users_of_pair_P[place_T], 0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # The number of pairs is the data's; torch would refuse buffers of another size.
        for name in ("interaction_E", "pair_P", "users_of_pair_P"):
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _find(sorted_K: torch.Tensor, key_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where each key stands, or would stand, and whether it does."""
    if len(sorted_K) == 0:
        return torch.zeros_like(key_T), torch.zeros_like(key_T, dtype=torch.bool)
    place_T = torch.searchsorted(sorted_K, key_T).clamp_max(len(sorted_K) - 1)
    return place_T, sorted_K[place_T] == key_T
