"""Inputs of a CTR model: a ragged batch, the item tables its ids index, and the tables' sizes."""

import dataclasses
import itertools
from typing import Any

import torch
from torch.nn import functional

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class FeatureSpec(Settings):
    """Table sizes (row 0 is the padding) and widths of the item vectors."""

    n_users: int = setting(2, "rows of the user table: largest row of a user plus one", ge=1)
    n_items: int = setting(2, "rows of the item table: largest row of an item plus one", ge=1)
    n_levels: int = setting(11, "values of likes_level and views_level", ge=1)
    vector_dim: int = setting(128, "dimensions of the fused item vectors", ge=1)
    n_tags: int = setting(1, "rows of the tag table: largest tag id plus one", ge=1)
    text_dim: int = setting(0, "dimensions of the title vectors; 0 if no item has one", ge=0)
    image_dim: int = setting(0, "dimensions of the cover vectors; 0 if no item has one", ge=0)

    def dim_of(self, kind: str) -> int:
        """Return the dimensions of `fused`, `text` or `image` vectors; 0 if no item has one."""
        return {"fused": self.vector_dim, "text": self.text_dim, "image": self.image_dim}[kind]


@dataclasses.dataclass(frozen=True)
class ItemFeatures:
    """Features of all items, one row for each of the I rows of the item table; row 0 is padding.

    `vectors_ID` are the fused vectors `(I, D) float32`, zero in row 0; `present_I` is `(I,) bool`,
    False for items without a vector; `likes_level_I` and `views_level_I` are `(I,) int64` in 0..10;
    `tags_IK` is `(I, K) int64`, padded with 0. Title vectors (`text_*`) and cover vectors
    (`image_*`) are set if the model asks for them and at least one item has one, else None.
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
        """Return the vectors of a kind (`fused`, `text` or `image`), `(I, D)`.

        Also returns which items have one, `(I,) bool`. Raises `ValueError` if no item has one.
        """
        prefix = "" if kind == "fused" else f"{kind}_"
        vectors_ID = getattr(self, f"{prefix}vectors_ID")
        if vectors_ID is None:
            raise ValueError(f"the model reads {kind} vectors, but the items have none")
        return vectors_ID, getattr(self, f"{prefix}present_I")

    def to(self, device: torch.device) -> "ItemFeatures":
        """Return a copy on `device`."""
        moved = {name: tensor.to(device) for name, tensor in _tensors(self).items()}
        return dataclasses.replace(self, **moved)


@dataclasses.dataclass(frozen=True)
class Batch:
    """B rows and H histories; history h is `history_T[offsets[h]:offsets[h + 1]]`, oldest first.

    Row i has history `history_row_B[i]`, or history i if that is None (then H equals B). In scoring
    consecutive rows often share a history, which is then read once.

    Train rows have two folds in which `ClickRates` counts them: `row_fold_B` is that of the row and
    `user_fold_B` that of its user, `(B,) int64` each.

    Ids and levels are `(B,) int64`, `history_T` is `(T,) int64`, `history_offsets` is
    `(H + 1,) int64`, `label_B` is `(B,) float32`, or None for unlabelled rows. `history_T` may be
    longer than `history_offsets[H]`: the spare positions at its end hold 0 and belong to no row.
    They keep the number of distinct shapes small, as matrix libraries and CUDA graphs prepare each
    shape once.
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
    row_fold_B: torch.Tensor | None = None
    user_fold_B: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.n_rows

    @property
    def n_rows(self) -> int:
        """The number of rows; unlike `len`, `torch.export` can keep it symbolic."""
        return self.item_id_B.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and positions, spare ones included."""
        return self.n_rows, self.history_T.shape[0]

    def take(
        self, rows: slice | torch.Tensor, history_T: torch.Tensor, offsets: torch.Tensor
    ) -> "Batch":
        """Return the rows that `rows` selects, with the histories given for them."""
        changed: dict[str, Any] = {
            name: column[rows] for name, column in _tensors(self).items() if name.endswith("_B")
        }
        changed |= {"history_T": history_T, "history_offsets": offsets}
        return dataclasses.replace(self, **changed)

    def split(self, n_parts: int) -> list["Batch"]:
        """Return the rows in order as `n_parts` batches of nearly equal size.

        The batches have no spare positions.

        Raises `ValueError` if rows share histories; rows in training never do.
        """
        if self.history_row_B is not None:
            raise ValueError("a batch whose rows share histories cannot be split")
        cuts = [len(self) * part // n_parts for part in range(n_parts + 1)]
        parts = []
        for start, stop in itertools.pairwise(cuts):
            offsets = self.history_offsets[start : stop + 1]
            first, last = int(offsets[0]), int(offsets[-1])
            parts.append(self.take(slice(start, stop), self.history_T[first:last], offsets - first))
        return parts

    def copy_from(self, other: "Batch") -> None:
        """Overwrite the rows of this batch with those of `other`, which has the same shape."""
        for name, tensor in _tensors(self).items():
            tensor.copy_(getattr(other, name))

    def clone(self) -> "Batch":
        """Return a batch with its own memory that shares the item tables."""
        copies: dict[str, Any] = {name: tensor.clone() for name, tensor in _tensors(self).items()}
        return dataclasses.replace(self, **copies)


def _tensors(instance: Any) -> dict[str, torch.Tensor]:
    """Return the tensors among the fields of a dataclass instance, by name."""
    return {name: value for name, value in vars(instance).items() if torch.is_tensor(value)}


@dataclasses.dataclass(frozen=True)
class DistinctItems:
    """The U distinct items of a batch, so that each item is computed once.

    `item_U` are their ids and `row_U` their rows in tables of ids. A known item may occur twice:
    with its own row, and with the row of unknown items. `slot_N` gives the distinct item at each of
    N = B + T places: the targets of the rows, then the positions of the histories. All are int64;
    `n_rows` is B. Where items hardly repeat, each place may count as a distinct item.
    """

    item_U: torch.Tensor
    row_U: torch.Tensor
    slot_N: torch.Tensor
    n_rows: int

    def at_places(self, values_UD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values of the targets `(B, D)` and of the histories `(T, D)`."""
        values_ND = gathered(values_UD, self.slot_N)
        target_BD, history_TD = values_ND.split([self.n_rows, values_ND.shape[0] - self.n_rows])
        return target_BD, history_TD


def gathered(values_UD: torch.Tensor, slot_N: torch.Tensor) -> torch.Tensor:
    """Return `values_UD[slot_N]`, `(N, D)`, by the operation whose gradient is fastest."""
    if values_UD.device.type == "cpu":
        return functional.embedding(slot_N, values_UD)
    return values_UD.index_select(0, slot_N)
