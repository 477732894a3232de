"""The model's table rows of items and users, also of those that it does not know."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmctr_pipeline.data.dataset import ItemTable, Split
from mmctr_pipeline.data.id_columns import holds_text, read_ids
from mmctr_pipeline.data.ids import IdMap
from mmctr_pipeline.data.model_rows import model_rows
from mmctr_pipeline.data.ragged import Ragged, numpy_view, without_zeros
from mmctr_pipeline.data.schemas import TEST_COLUMNS, Column
from mmctr_pipeline.data.validation import Block, check_schema, integers, list_elements
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.batch import ItemFeatures
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.serving.errors import ScorerError
from mmctr_pipeline.training.batch_source import item_features

if TYPE_CHECKING:
    from mmctr_pipeline.serving.new_items import NewItem, NewItemEncoder

MAX_NEW_ITEMS = 1000
"""Most new items of one call; their rows are kept free."""


class UserRows:
    """Rows of the model's user table; every user that it has not seen gets the one after the last.

    `known` has the ids of the model's users, or is None if their ids are their rows. `unknown` is
    the row of other users.
    """

    def __init__(self, known: IdMap | None, n_users: int) -> None:
        self._known, self.unknown = known, n_users

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids that have a row, and their rows, `(U,) int32`."""
        if self._known is not None:
            return self._known.ids, self._known.look_up(self._known.ids)
        ids = np.arange(1, self.unknown)
        return ids, ids.astype(np.int32)

    def row(self, user: int | str | None) -> np.int32:
        """Return the row of a user; None is an unknown one."""
        ids = np.array([0 if user is None else user])
        return self.rows(ids)[0]

    def rows(self, ids: np.ndarray | pa.Array) -> np.ndarray:
        """Return the row of each user, `(N,) int32`."""
        if self._known is not None:
            rows = self._known.look_up(ids)
        elif isinstance(ids, pa.Array) or ids.dtype.kind == "U":
            rows = np.zeros(len(ids), np.int32)
        else:
            rows = np.where(ids < self.unknown, ids, 0)
        return np.where(rows > 0, rows, self.unknown).astype(np.int32)


class ItemRows:
    """Features of all items by table row, with spare rows at the end.

    Row 0 is padding. The items of the catalogue have the model's rows; models treat rows after
    their own as unknown. The first spare row, `unknown`, is for ids that are not in the catalogue,
    the others are for the new items of a call. `row_of_item` has the rows of the catalogue's items,
    `(M,) int32`. `features` are on the device; `levels_2R` has likes_level and views_level of each
    row, `(2, R) int8`.
    """

    def __init__(
        self,
        items: ItemTable,
        vectors: ItemVectors,
        config: ModelConfig,
        known: IdMap | None,
        n_items: int,
        device: torch.device,
    ) -> None:
        """Lay out the catalogue.

        Parameters
        ----------
        items, vectors
            The catalogue and its vectors.
        config
            The model, which decides which vectors are needed.
        known
            The ids of the model's items, or None if their ids are their rows.
        n_items
            Rows of the model's item table.
        device
            Where the features are needed.
        """
        rows = model_rows("item_id", items.ids, known, n_items)
        placed = dataclasses.replace(items, item_id=rows)
        self._config, self._device = config, device
        self._ids = IdMap(items.ids, is_identity=False)
        self.unknown = max(n_items, int(rows.max(initial=0)) + 1)
        self.row_of_item = rows.astype(np.int32)
        self._row_of_place = np.concatenate([[self.unknown], rows]).astype(np.int32)
        n_rows = self.unknown + 1 + MAX_NEW_ITEMS
        self.features = _extended(item_features(placed, vectors, config), n_rows, device)
        self.levels_2R = np.zeros((2, n_rows), np.int8)
        self.levels_2R[:, rows] = items.likes_level, items.views_level

    def tables(self) -> dict[str, torch.Tensor]:
        """Return the features by name, up to the row `unknown`."""
        named = vars(self.features).items()
        return {name: each[: self.unknown + 1].clone() for name, each in named if each is not None}

    def rows(self, items: Sequence[Any], new: Mapping[Any, int]) -> np.ndarray:
        """Return the row of each item, `(N,) int32`; `new` has the rows of the new ones.

        Raises `ScorerError` for an id of another type than those of the catalogue.
        """
        has_strings = self._ids.ids.dtype.kind == "U"
        expected = (str,) if has_strings else (int, np.integer)
        rows, places, ids = np.zeros(len(items), np.int32), [], []
        for place, item in enumerate(items):
            if item in new:
                rows[place] = new[item]
            elif isinstance(item, expected):
                places.append(place)
                ids.append(item)
            else:
                kind = "strings" if has_strings else "integers"
                raise ScorerError(f"item {item!r}: the ids of this catalogue are {kind}")
        # Not of the catalogue's dtype, which would cut off longer strings.
        rows[places] = self._look_up(np.array(ids, str if has_strings else np.int64))
        return rows

    def put_new(self, new: Sequence["NewItem"], encoder: "NewItemEncoder") -> np.ndarray:
        """Write the features of new items into spare rows, and return these, `(N,) int32`.

        The rows are valid until the next call. Raises `ScorerError` if there are too many.
        """
        if len(new) > MAX_NEW_ITEMS:
            raise ScorerError(f"{len(new):,} new items in one call; at most {MAX_NEW_ITEMS:,}")
        found = encoder.encode(new)
        rows = np.arange(len(new), dtype=np.int32) + self.unknown + 1
        values: dict[str, np.ndarray] = {
            "tags_IK": _tags(new, self.features.tags_IK.shape[1]),
            "likes_level_I": np.array([item.likes_level for item in new]),
            "views_level_I": np.array([item.views_level for item in new]),
        }
        for name, table in found.tables.items():
            prefix = "" if name == "fused" else f"{name}_"
            values |= {f"{prefix}vectors_ID": table.vectors, f"{prefix}present_I": table.present}
        place = torch.from_numpy(rows).to(self._device).long()
        for name, value in values.items():
            tensor = getattr(self.features, name)
            if tensor is not None:  # the model reads it
                tensor[place] = torch.from_numpy(value).to(tensor)
        self.levels_2R[:, rows] = values["likes_level_I"], values["views_level_I"]
        return rows

    def read(
        self, batch: pa.RecordBatch, users: UserRows, file: Path, first_row: int = 0
    ) -> tuple[Split, Ragged]:
        """Return the rows of a batch, and their histories.

        Raises `DataError` for a missing column, a wrong type and an invalid value.

        Parameters
        ----------
        batch
            Columns as in `Scorer.score_batch`.
        users
            The rows of users.
        file, first_row
            Where the batch comes from, for errors.
        """
        columns = columns_of(batch.schema)
        check_schema(file, batch.schema, columns)
        blocks = {each.name: Block(file, each, first_row) for each in columns}
        item_id = self._look_up(read_ids(batch.column("item_id"), blocks["item_id"]))
        flat, offsets = list_elements(batch.column("item_seq"), blocks["item_seq"])
        past = self._look_up(flat.cast(pa.large_string()) if holds_text(flat.type) else flat)
        past[_is_padding(flat)] = 0
        histories = without_zeros(past, offsets)
        user_id = np.repeat(users.row(None), len(batch))
        if "user_id" in blocks:
            user_id = users.rows(read_ids(batch.column("user_id"), blocks["user_id"]))
        likes, views = (
            integers(batch.column(name), blocks[name]).astype(np.int8)
            if name in blocks
            else self.levels_2R[place, item_id]
            for place, name in enumerate(("likes_level", "views_level"))
        )
        row = np.arange(len(batch), dtype=np.int32)
        return Split(user_id, item_id, row, likes, views), histories

    def _look_up(self, ids: np.ndarray | pa.Array) -> np.ndarray:
        """Return the row of each id, `(N,) int32`; integers may also come as an Arrow array."""
        if isinstance(ids, pa.Array) and pa.types.is_integer(ids.type):
            ids = numpy_view(ids)
        return self._row_of_place[self._ids.look_up(ids)]


REQUIRED = ("item_id", "item_seq")
_OPTIONAL = ("user_id", "likes_level", "views_level")


def columns_of(schema: pa.Schema) -> list[Column]:
    """Return the columns that are read of rows to score: `REQUIRED`, and others that are there."""
    names = [*REQUIRED, *(name for name in _OPTIONAL if name in schema.names)]
    known = {column.name: column for column in TEST_COLUMNS}
    return [known[name] for name in names]


def _is_padding(flat: pa.Array) -> np.ndarray:
    padding = "" if holds_text(flat.type) else 0
    is_padding = pc.equal(flat, pa.scalar(padding, flat.type))
    return is_padding.to_numpy(zero_copy_only=False)


def _tags(new: Sequence["NewItem"], width: int) -> np.ndarray:
    """Return the first tags of each item, `(N, K) int64`, padded with 0."""
    tags = np.zeros((len(new), width), np.int64)
    for row, item in enumerate(new):
        tags[row, : len(item.tags)] = item.tags[:width]
    return tags


def _extended(items: ItemFeatures, n_rows: int, device: torch.device) -> ItemFeatures:
    """Return a copy with `n_rows` rows on a device; the rows after those of `items` are zero."""
    tensors = {}
    for name, tensor in vars(items).items():
        if tensor is not None:
            tensors[name] = torch.zeros((n_rows, *tensor.shape[1:]), dtype=tensor.dtype)
            tensors[name][: len(tensor)] = tensor
    return dataclasses.replace(items, **tensors).to(device)
