"""The items of the sample dataset: category, style, popularity, levels and tags."""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmctr_pipeline.data.ragged import Ragged, offsets_from_lengths
from mmctr_pipeline.sample.config import SampleConfig

CATEGORIES = ("cooking", "pets", "music", "gaming", "travel", "fitness")
"""Topics of videos, shown mostly by the title. Two families: indoors, and active."""

STYLES = ("neon", "pastel", "comic", "retro", "noir", "mosaic")
"""Visual styles of videos, shown mostly by the cover. Two families: bright, and muted."""

FAMILY_SIZE = 3
"""Categories, or styles, per family. The first three are one family, the others the second."""

N_CELLS = len(CATEGORIES) * len(STYLES)
TAG_VOCABULARY = 11_740
MAX_TAGS = 5

_GENERAL_TAG_SHARE = 0.4


class Stream(enum.IntEnum):
    """Independent random streams of one seed. Changing a number changes the dataset."""

    ITEMS = 1
    TITLES = 2
    VECTORS = 3
    COVERS = 4
    DAMAGE = 5
    TRAIN = 11
    VALID = 12
    TEST = 13
    USERS = 14
    TASTES = 21
    TRENDS = 22
    DAYS = 23
    CANDIDATES = 24


def generator(seed: int, stream: Stream, part: int = 0) -> np.random.Generator:
    """Return the generator of one part (a chunk, an item) of one stream."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(stream), part])))


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """M items; row i is the item with id `first_id + i`.

    A dataset by day has several catalogues, whose numbers `part` seed what is drawn for them.
    `category` and `style` are int64 indices into `CATEGORIES` and `STYLES`; `log_popularity` is a
    standardised float64; `cold` is True for items that neither train rows nor histories show;
    levels are int64 in 0..10; `tags` has 1 to 5 tag ids in 1..11,739 per item.
    """

    category: np.ndarray
    style: np.ndarray
    log_popularity: np.ndarray
    cold: np.ndarray
    likes_level: np.ndarray
    views_level: np.ndarray
    tags: Ragged
    first_id: int = 1
    part: int = 0

    def __len__(self) -> int:
        return len(self.category)

    @property
    def item_id(self) -> np.ndarray:
        """Consecutive ids, `(M,) int64`."""
        return np.arange(self.first_id, self.first_id + len(self))

    @property
    def cell(self) -> np.ndarray:
        """Category and style as one number, `category * len(STYLES) + style`."""
        return self.category * len(STYLES) + self.style

    @classmethod
    def concatenate(cls, catalogues: Sequence["Catalogue"]) -> "Catalogue":
        """Join catalogues with consecutive ids; the first begins with id 1."""
        fields = ("category", "style", "log_popularity", "cold", "likes_level", "views_level")
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(each, name) for each in catalogues]) for name in fields
        }
        return cls(**arrays, tags=Ragged.concatenate([each.tags for each in catalogues]))


def draw_catalogue(config: SampleConfig) -> Catalogue:
    """Draw the items. Warm and cold items alike are spread evenly over category and style."""
    return draw_items(config, config.n_items)


def draw_items(config: SampleConfig, n_items: int, first_id: int = 1, part: int = 0) -> Catalogue:
    """Draw `n_items` items from `first_id` on, with the random numbers of a part."""
    rng = generator(config.seed, Stream.ITEMS, part)
    order = rng.permutation(n_items)
    cell, rank = order % N_CELLS, order // N_CELLS
    cold = np.floor((rank + 1) * config.cold_item_share) > np.floor(rank * config.cold_item_share)
    log_popularity = rng.standard_normal(n_items)
    views = 5.0 + 2.0 * log_popularity + 0.7 * rng.standard_normal(n_items)
    likes = views + 1.0 * rng.standard_normal(n_items)
    category = cell // len(STYLES)
    return Catalogue(
        category=category,
        style=cell % len(STYLES),
        log_popularity=log_popularity,
        cold=cold,
        likes_level=_level(likes),
        views_level=_level(views),
        tags=_draw_tags(category, rng),
        first_id=first_id,
        part=part,
    )


class ItemSampler:
    """Draws items of a given cell, which is a category and a style. Popular items are more likely.

    If a cell has no item, items of all cells are drawn for it.

    Parameters
    ----------
    catalogue
        All items.
    warm
        Draw from the items that train rows may show. Otherwise draw from the cold items.
    popularity_spread
        Standard deviation of the logarithm of the items' frequencies. With 0, all items of a cell
        are equally likely.
    """

    def __init__(self, catalogue: Catalogue, *, warm: bool, popularity_spread: float) -> None:
        rows = np.flatnonzero(~catalogue.cold if warm else catalogue.cold)
        cells = catalogue.cell[rows]
        order = np.argsort(cells, kind="stable")
        self._item_id = rows[order] + 1
        weights = np.exp(popularity_spread * catalogue.log_popularity[rows[order]])
        self._upper = np.concatenate([[0.0], np.cumsum(weights)])
        starts = np.searchsorted(cells[order], np.arange(N_CELLS))
        ends = np.searchsorted(cells[order], np.arange(N_CELLS), side="right")
        empty = starts == ends
        self._start = np.where(empty, 0, starts)
        self._end = np.where(empty, len(rows), ends)

    def __len__(self) -> int:
        return len(self._item_id)

    def draw(self, cell: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return one item id per cell, `(N,) int64`."""
        low, high = self._upper[self._start[cell]], self._upper[self._end[cell]]
        point = low + rng.random(len(cell)) * (high - low)
        position = np.searchsorted(self._upper, point, side="right") - 1
        # A point may be rounded to the upper end of its interval, which belongs to the next cell.
        return self._item_id[np.clip(position, self._start[cell], self._end[cell] - 1)]

    def draw_evenly(self, cell: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return one item id per cell; all items of a cell are equally likely."""
        return self._item_id[rng.integers(self._start[cell], self._end[cell])]

    def draw_any(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return `n` item ids; all items are equally likely."""
        return self._item_id[rng.integers(len(self._item_id), size=n)]


def _level(value: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(value), 0, 10).astype(np.int64)


def _draw_tags(category: np.ndarray, rng: np.random.Generator) -> Ragged:
    """Draw tags from the block of ids of the category, or from a block for all categories."""
    block = (TAG_VOCABULARY - 1) // (len(CATEGORIES) + 1)
    lengths = rng.integers(1, MAX_TAGS + 1, size=len(category))
    owner = np.repeat(category, lengths)
    general = rng.random(len(owner)) < _GENERAL_TAG_SHARE
    # A squared uniform number makes a few tags common and most rare.
    within = (block * rng.random(len(owner)) ** 2).astype(np.int64)
    values = 1 + within + block * np.where(general, len(CATEGORIES), owner)
    return Ragged(values.astype(np.int32), offsets_from_lengths(lengths))
