"""The items of the sample dataset: category, style, popularity, levels and tags."""

import dataclasses

import numpy as np

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.streams import Stream, generator

CATEGORIES = ("cooking", "pets", "music", "gaming", "travel", "fitness")
"""What a video is about; mostly its title tells. Two families: at home, and out for action."""

STYLES = ("neon", "pastel", "comic", "retro", "noir", "mosaic")
"""What a video looks like; mostly its cover tells. Two families: bright, and muted."""

FAMILY_SIZE = 3
"""Kinds per family; the first so many are one family, the rest the other."""

N_CELLS = len(CATEGORIES) * len(STYLES)
TAG_VOCABULARY = 11_740
MAX_TAGS = 5

_GENERAL_TAG_SHARE = 0.4


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """All items, row i being item id i + 1; arrays have length M.

    `category` and `style` are int64 indices into `CATEGORIES` and `STYLES`; `log_popularity` is a
    standardised float64; `cold` is True for items that train and the histories never show; levels
    are int64 in 0..10; `tags` holds 1 to 5 tag ids from 1 to 11,739 per item.
    """

    category: np.ndarray
    style: np.ndarray
    log_popularity: np.ndarray
    cold: np.ndarray
    likes_level: np.ndarray
    views_level: np.ndarray
    tags: Ragged

    def __len__(self) -> int:
        return len(self.category)

    @property
    def item_id(self) -> np.ndarray:
        """Ids 1..M, int64."""
        return np.arange(1, len(self) + 1)

    @property
    def cell(self) -> np.ndarray:
        """Category and style in one number, `category * len(STYLES) + style`."""
        return self.category * len(STYLES) + self.style


def draw_catalogue(config: SampleConfig) -> Catalogue:
    """Draw the items; every pair of category and style gets equally many, and equally many cold."""
    rng = generator(config.seed, Stream.ITEMS)
    order = rng.permutation(config.n_items)
    cell, rank = order % N_CELLS, order // N_CELLS
    cold = np.floor((rank + 1) * config.cold_item_share) > np.floor(rank * config.cold_item_share)
    log_popularity = rng.standard_normal(config.n_items)
    views = 5.0 + 2.0 * log_popularity + 0.7 * rng.standard_normal(config.n_items)
    likes = views + 1.0 * rng.standard_normal(config.n_items)
    category = cell // len(STYLES)
    return Catalogue(
        category=category,
        style=cell % len(STYLES),
        log_popularity=log_popularity,
        cold=cold,
        likes_level=_level(likes),
        views_level=_level(views),
        tags=_draw_tags(category, rng),
    )


class ItemSampler:
    """Draws items of a wanted category and style, the popular ones more often.

    `warm` chooses between the items that train may show and the others; `popularity_spread` is the
    standard deviation of the logarithm of how often items are drawn, 0 meaning equally often. A
    pool that lacks a cell altogether yields items of any cell in its place.
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
        """Return one item id per wanted cell, `(N,) int64`."""
        low, high = self._upper[self._start[cell]], self._upper[self._end[cell]]
        at = low + rng.random(len(cell)) * (high - low)
        position = np.searchsorted(self._upper, at, side="right") - 1
        # Rounding may reach the upper end of the interval, which belongs to the next cell.
        return self._item_id[np.clip(position, self._start[cell], self._end[cell] - 1)]

    def draw_evenly(self, cell: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return one item id per wanted cell, each item of the cell equally likely."""
        return self._item_id[rng.integers(self._start[cell], self._end[cell])]

    def draw_any(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return `n` item ids, each item equally likely."""
        return self._item_id[rng.integers(len(self._item_id), size=n)]


def _level(value: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(value), 0, 10).astype(np.int64)


def _draw_tags(category: np.ndarray, rng: np.random.Generator) -> Ragged:
    """Tags come from the category's own block of ids, or from a block that all share."""
    block = (TAG_VOCABULARY - 1) // (len(CATEGORIES) + 1)
    lengths = rng.integers(1, MAX_TAGS + 1, size=len(category))
    owner = np.repeat(category, lengths)
    general = rng.random(len(owner)) < _GENERAL_TAG_SHARE
    # A squared uniform number makes a few tags common and most rare.
    within = (block * rng.random(len(owner)) ** 2).astype(np.int64)
    values = 1 + within + block * np.where(general, len(CATEGORIES), owner)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(values.astype(np.int32), offsets)
