"""What a CTR model sees: one ragged batch, and the item tables that its ids point into."""

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class ItemFeatures:
    """Features of all items, indexed by item id; row 0 is padding. I is the number of rows.

    `vectors_ID` is `(I, D) float32`, zero in row 0; `present_I` is `(I,) bool`, False where an item
    has no vector; `likes_level_I` and `views_level_I` are `(I,) int64` in 0..10.
    """

    vectors_ID: torch.Tensor
    present_I: torch.Tensor
    likes_level_I: torch.Tensor
    views_level_I: torch.Tensor

    def to(self, device: torch.device) -> "ItemFeatures":
        """Return a copy on `device`."""
        return ItemFeatures(*(getattr(self, f.name).to(device) for f in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class Batch:
    """B rows; history i is `history_T[offsets[i]:offsets[i + 1]]`, oldest first, without padding.

    Ids and levels are `(B,) int64`, `history_T` is `(T,) int64`, `history_offsets` is
    `(B + 1,) int64`, `label_B` is `(B,) float32`, or None where there are no labels.
    """

    user_id_B: torch.Tensor
    item_id_B: torch.Tensor
    likes_level_B: torch.Tensor
    views_level_B: torch.Tensor
    history_T: torch.Tensor
    history_offsets: torch.Tensor
    items: ItemFeatures
    label_B: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.item_id_B)
