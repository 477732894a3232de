"""Draw rows with label 0 for data that hold only interactions."""

import dataclasses
import logging

import numpy as np
import polars as pl

from mmctr_pipeline.data.convert.config import MicroLensConfig
from mmctr_pipeline.data.convert.splits import Rows

logger = logging.getLogger(__name__)

_ROUNDS = 50


@dataclasses.dataclass(frozen=True)
class _Catalogue:
    """Items in the order of their first interaction, `(I,)` each.

    If times of different users cannot be compared, the items are in the order of their ids.
    `cumulative` is the running sum of the weights, `(I + 1,) float64`.
    """

    item_id: np.ndarray
    first_time: np.ndarray
    cumulative: np.ndarray

    def draw(self, n_known: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return one of the first `n_known[i]` items for each row i, by weight, int64."""
        points = generator.random(len(n_known)) * self.cumulative[n_known]
        index = np.searchsorted(self.cumulative, points, side="right") - 1
        return self.item_id[np.minimum(index, n_known - 1)]


def with_negatives(
    rows: Rows, ordered: pl.DataFrame, config: MicroLensConfig, *, timed: bool
) -> Rows:
    """Return each row and `config.negatives` drawn rows with the same user and history.

    The user never interacts with a drawn item, but somebody has interacted with it by the row's
    time; otherwise a model could recognise negatives as items that did not exist yet. Weights are
    taken from all interactions, so that items that are new in test occur as negatives too. Rows
    whose user interacted with nearly all items known by then are left out and counted in the log. A
    row and its negatives are in random order.

    Parameters
    ----------
    rows
        Interactions with label 1.
    ordered
        All interactions in the order of `in_time_order`.
    config
        Seed, number of negatives and exponent of the popularity.
    timed
        Whether times of different users can be compared. Otherwise any item may be drawn.
    """
    generator = np.random.default_rng([config.seed, 1])
    catalogue = _catalogue(ordered, config.popularity, timed)
    n_known = np.searchsorted(catalogue.first_time, rows.time, side="right")
    if not timed:
        n_known = np.full(len(rows), len(catalogue.item_id))
    own = _Pairs(ordered["user_id"].to_numpy(), ordered["item_id"].to_numpy())
    drawn = np.zeros((len(rows), config.negatives), np.int64)
    for number in range(config.negatives):
        pending = np.arange(len(rows))
        for _ in range(_ROUNDS):
            items = catalogue.draw(n_known[pending], generator)
            taken = own.contain(rows.user_id[pending], items)
            taken |= (drawn[pending, :number] == items[:, None]).any(axis=1)
            drawn[pending, number] = np.where(taken, 0, items)
            pending = pending[taken]
    is_complete: np.ndarray = np.all(drawn > 0, axis=1)
    if not is_complete.all():
        logger.info(f"{(~is_complete).sum():,} rows left out: too few items to draw at their time")
    return _interleaved(rows.take(is_complete), drawn[is_complete], generator)


def _catalogue(ordered: pl.DataFrame, exponent: float, timed: bool) -> _Catalogue:
    items = (
        ordered.group_by("item_id")
        .agg(pl.col("time").min(), pl.len().alias("count"))
        .sort(*(["time"] if timed else []), "item_id")
    )
    weights = items["count"].to_numpy().astype(np.float64) ** exponent
    return _Catalogue(
        items["item_id"].to_numpy(),
        items["time"].to_numpy(),
        np.append(0.0, np.cumsum(weights)),
    )


class _Pairs:
    """A set of pairs of user and item."""

    def __init__(self, user: np.ndarray, item: np.ndarray) -> None:
        self._users, self._items = np.unique(user), np.unique(item)
        self._keys = np.sort(self._key(user, item))

    def contain(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Return whether each pair of known user and known item is in the set, `(N,) bool`."""
        keys = self._key(user, item)
        index = np.searchsorted(self._keys, keys)
        return self._keys[np.minimum(index, len(self._keys) - 1)] == keys

    def _key(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._users, user) * len(self._items) + np.searchsorted(
            self._items, item
        )


def _interleaved(rows: Rows, drawn: np.ndarray, generator: np.random.Generator) -> Rows:
    """Return each row together with its drawn items, in random order within this group."""
    n_each = 1 + drawn.shape[1]
    items = np.column_stack([rows.item_id, drawn])
    labels = np.column_stack([rows.label, np.zeros_like(drawn)])
    order = generator.permuted(np.broadcast_to(np.arange(n_each), items.shape), axis=1)
    repeated = rows.take(np.repeat(np.arange(len(rows)), n_each))
    return dataclasses.replace(
        repeated,
        item_id=np.take_along_axis(items, order, axis=1).reshape(-1),
        label=np.take_along_axis(labels, order, axis=1).reshape(-1).astype(np.int8),
    )
