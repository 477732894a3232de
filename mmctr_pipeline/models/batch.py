"""What a CTR model sees: one ragged batch, and the item tables that its ids point into."""

import dataclasses
import itertools

import torch


@dataclasses.dataclass(frozen=True)
class ItemFeatures:
    """Features of all items, indexed by item id; row 0 is padding. I is the number of rows.

    `vectors_ID` are the fused vectors `(I, D) float32`, zero in row 0; `present_I` is `(I,) bool`,
    False where an item has none; `likes_level_I` and `views_level_I` are `(I,) int64` in 0..10;
    `tags_IK` is `(I, K) int64`, filled up with 0. Title vectors (`text_*`) and cover vectors
    (`image_*`) are there where the model asks for them and at least one item has one; None else.
    """

    vectors_ID: torch.Tensor
    present_I: torch.Tensor
    likes_level_I: torch.Tensor
    views_level_I: torch.Tensor
    tags_IK: torch.Tensor
    text_vectors_ID: torch.Tensor | None = None
    text_present_I: torch.Tensor | None = None
    image_vectors_ID: torch.Tensor | None = None
    image_present_I: torch.Tensor | None = None

    def vectors_of(self, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors `(I, D)` and mask `(I,)` of `fused`, `text` or `image`.

        Raises `ValueError` where they are not there.
        """
        prefix = "" if kind == "fused" else f"{kind}_"
        vectors_ID = getattr(self, f"{prefix}vectors_ID")
        if vectors_ID is None:
            raise ValueError(f"the items come without {kind} vectors, which the model reads")
        return vectors_ID, getattr(self, f"{prefix}present_I")

    def to(self, device: torch.device) -> "ItemFeatures":
        """Return a copy on `device`."""
        tensors = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved = {name: each.to(device) for name, each in tensors.items() if each is not None}
        return dataclasses.replace(self, **moved)


@dataclasses.dataclass(frozen=True)
class Batch:
    """B rows and H histories; history h is `history_T[offsets[h]:offsets[h + 1]]`, oldest first.

    Row i has history `history_row_B[i]`, or history i where that is None (then H is B). In scoring
    rows that follow one another often share one, which then is read once.

    Ids and levels are `(B,) int64`, `history_T` is `(T,) int64`, `history_offsets` is
    `(H + 1,) int64`, `label_B` is `(B,) float32`, or None where there are no labels. `history_T`
    may be longer than `offsets[B]`: the spare positions at its end hold 0 and belong to no row.
    With them batches come in few shapes, which matrix libraries and CUDA graphs prepare once each.
    """

    user_id_B: torch.Tensor
    item_id_B: torch.Tensor
    likes_level_B: torch.Tensor
    views_level_B: torch.Tensor
    history_T: torch.Tensor
    history_offsets: torch.Tensor
    items: ItemFeatures
    label_B: torch.Tensor | None = None
    history_row_B: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.item_id_B)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and positions, spare ones included."""
        return len(self.item_id_B), len(self.history_T)

    def split(self, n_parts: int) -> list["Batch"]:
        """Return the rows in order as `n_parts` batches of nearly equal size, without spares.

        Raises `ValueError` where rows share histories, as those of training never do.
        """
        if self.history_row_B is not None:
            raise ValueError("a batch whose rows share histories cannot be split")
        cuts = [len(self) * part // n_parts for part in range(n_parts + 1)]
        return [self._rows(start, stop) for start, stop in itertools.pairwise(cuts)]

    def copy_from(self, other: "Batch") -> None:
        """Overwrite the rows of this batch with those of `other`, which has the same shape."""
        for field in dataclasses.fields(self):
            mine = getattr(self, field.name)
            if isinstance(mine, torch.Tensor):
                mine.copy_(getattr(other, field.name))

    def clone(self) -> "Batch":
        """Return a batch with memory of its own, but the same item tables."""
        tensors = {
            field.name: getattr(self, field.name).clone()
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), torch.Tensor)
        }
        return dataclasses.replace(self, **tensors)

    def _rows(self, start: int, stop: int) -> "Batch":
        first, last = int(self.history_offsets[start]), int(self.history_offsets[stop])
        return Batch(
            user_id_B=self.user_id_B[start:stop],
            item_id_B=self.item_id_B[start:stop],
            likes_level_B=self.likes_level_B[start:stop],
            views_level_B=self.views_level_B[start:stop],
            history_T=self.history_T[first:last],
            history_offsets=self.history_offsets[start : stop + 1] - first,
            items=self.items,
            label_B=None if self.label_B is None else self.label_B[start:stop],
        )
