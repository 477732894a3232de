"""What users of the sample dataset do: histories, targets, and labels of known probability."""

import dataclasses
from collections.abc import Callable

import numpy as np

from mmctr_pipeline.data.ragged import Ragged, offsets_from_lengths
from mmctr_pipeline.sample.catalogue import N_CELLS, STYLES, Catalogue, ItemSampler
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.tastes import Tastes

MIN_HISTORY = 3
MAX_HISTORY = 100

# Share of targets chosen by the user's taste; the others are random.
_BY_TASTE_SHARE = 0.1
# Spreads of popularity (see `ItemSampler`). Histories mostly show popular items, so that models
# learn good embeddings of these. Targets are popular and unpopular items alike, so that every model
# needs their content.
_HISTORY_POPULARITY, _TARGET_POPULARITY = 3.0, 0.2
# History length is 3 plus a log-normal number: mean 8, standard deviation 7, quartiles 4 / 6 / 9.
_LENGTH_MEDIAN, _LENGTH_SIGMA = 3.4, 1.0
# An item that the user already has is drawn again. Attempts up to the first number draw from the
# same cell (category and style) by popularity, further attempts up to the second number evenly from
# this cell, and further attempts up to the third number evenly from all cells. After half of these,
# a warm item replaces a cold one, as a day may have fewer new items than a user has rows.
_POPULAR_REDRAWS, _CELL_REDRAWS, _MAX_REDRAWS = 2, 8, 200


@dataclasses.dataclass(frozen=True)
class Impressions:
    """N rows in user order; `history` `(N,)` indexes the H lists of `histories`.

    `user` is the row's user, numbered from 0 in this chunk; `item_id` and `label` are int64;
    `probability` is the true click probability, float64. `user_of_history`, `(H,)`, has the user of
    each history.
    """

    user: np.ndarray
    item_id: np.ndarray
    history: np.ndarray
    histories: Ragged
    user_of_history: np.ndarray
    probability: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.item_id)


class Behaviour:
    """Draws the impressions and clicks of users of one catalogue.

    Parameters
    ----------
    catalogue
        All items.
    config
        Settings of the sample dataset.
    trend
        Added to the logit of all users for each cell of category and style, `(N_CELLS,)`.
    """

    def __init__(
        self, catalogue: Catalogue, config: SampleConfig, trend: np.ndarray | None = None
    ) -> None:
        self._catalogue = catalogue
        self._config = config
        self._trend = np.zeros(N_CELLS) if trend is None else trend
        self._id_space = len(catalogue) + 1
        self._popular = ItemSampler(catalogue, warm=True, popularity_spread=_HISTORY_POPULARITY)
        self._warm = ItemSampler(catalogue, warm=True, popularity_spread=_TARGET_POPULARITY)
        self._cold = ItemSampler(catalogue, warm=False, popularity_spread=_TARGET_POPULARITY)

    def draw(
        self,
        rows_of_user: np.ndarray,
        favourites: np.ndarray,
        cold_row_share: float,
        rng: np.random.Generator,
    ) -> Impressions:
        """Draw all rows of some users.

        Every `rows_per_history` rows of a user share a history. Targets of a user are distinct, and
        none is in the user's histories.

        Parameters
        ----------
        rows_of_user
            Number of rows of each user, `(U,)`.
        favourites
            Favourites of each user, `(U, 2)`.
        cold_row_share
            Share of the rows whose target is a cold item.
        rng
            Source of all random numbers.
        """
        n_users = len(rows_of_user)
        tastes = Tastes.of(favourites)
        per_history = self._config.rows_per_history
        histories_of_user = -(-rows_of_user // per_history)
        user_of_history = np.repeat(np.arange(n_users), histories_of_user)
        histories = self._draw_histories(user_of_history, tastes, rng)

        user = np.repeat(np.arange(n_users), rows_of_user)
        first_row = np.cumsum(rows_of_user) - rows_of_user
        first_history = np.cumsum(histories_of_user) - histories_of_user
        rank = np.arange(len(user)) - first_row[user]
        history = first_history[user] + rank // per_history

        seen = np.repeat(user_of_history, histories.lengths) * self._id_space
        item_id = self._draw_targets(user, seen + histories.values, tastes, cold_row_share, rng)
        probability = self._probability(user, item_id, tastes)
        label = (rng.random(len(user)) < probability).astype(np.int64)
        return Impressions(user, item_id, history, histories, user_of_history, probability, label)

    def _draw_histories(self, user: np.ndarray, tastes: Tastes, rng: np.random.Generator) -> Ragged:
        longest = max(MIN_HISTORY, min(MAX_HISTORY, len(self._warm) // 8))
        length = draw_history_lengths(len(user), rng, longest)
        offsets = offsets_from_lengths(length)
        owner = np.repeat(np.arange(len(user)), length)
        category = _systematic_sample(tastes.category.share[user], owner, offsets, rng)
        style = _systematic_sample(tastes.style.share[user], owner, offsets, rng)
        cell = category * len(STYLES) + style

        def draw(rows: np.ndarray, attempt: int) -> np.ndarray:
            # Attempt 0 is the first draw of a history item, so redraws are counted from attempt 1.
            return _redraw(self._popular, cell[rows], attempt - 1, rng)

        return Ragged(self._draw_distinct(owner, draw).astype(np.int32), offsets)

    def _draw_targets(
        self,
        user: np.ndarray,
        seen: np.ndarray,
        tastes: Tastes,
        cold_row_share: float,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return `(N,)` item ids; `seen` holds `user * id space + item` of all histories."""
        cold = rng.random(len(user)) < (cold_row_share if len(self._cold) else 0.0)
        cell = _target_kinds(tastes.category.share, user, rng) * len(STYLES)
        cell += _target_kinds(tastes.style.share, user, rng)

        def draw(rows: np.ndarray, attempt: int) -> np.ndarray:
            item_id = np.zeros(len(rows), dtype=np.int64)
            is_cold = cold[rows] & (attempt < _MAX_REDRAWS // 2)
            for pool, is_chosen in ((self._warm, ~is_cold), (self._cold, is_cold)):
                if is_chosen.any():
                    item_id[is_chosen] = _redraw(pool, cell[rows[is_chosen]], attempt, rng)
            return item_id

        return self._draw_distinct(user, draw, seen)

    def _draw_distinct(
        self,
        owner: np.ndarray,
        draw: Callable[[np.ndarray, int], np.ndarray],
        seen: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return `(N,)` item ids that are distinct for each owner and not among `seen`.

        `draw(rows, attempt)` returns new item ids for some rows. It is called again for the rows
        whose item is repeated or seen.
        """
        item_id = np.zeros(len(owner), dtype=np.int64)
        rows = np.arange(len(owner))
        for attempt in range(_MAX_REDRAWS):
            item_id[rows] = draw(rows, attempt)
            key = owner * self._id_space + item_id
            is_repeated = np.ones(len(key), dtype=bool)
            is_repeated[np.unique(key, return_index=True)[1]] = False
            if seen is not None:
                is_repeated |= np.isin(key, seen)
            rows = np.flatnonzero(is_repeated)
            if len(rows) == 0:
                return item_id
        raise RuntimeError("the catalogue is too small for the distinct items that each user needs")

    def _probability(self, user: np.ndarray, item_id: np.ndarray, tastes: Tastes) -> np.ndarray:
        config, row = self._config, item_id - 1
        logit = (
            config.intercept
            + config.style_effect * tastes.style.weight[user, self._catalogue.style[row]]
            + config.category_effect * tastes.category.weight[user, self._catalogue.category[row]]
            + config.popularity_effect * self._catalogue.log_popularity[row]
            + self._trend[self._catalogue.cell[row]]
        )
        return 1.0 / (1.0 + np.exp(-logit))


def draw_history_lengths(n: int, rng: np.random.Generator, longest: int) -> np.ndarray:
    """Draw `(n,) int64` lengths from 3 to `longest`: mean about 8, with a long tail."""
    excess = _LENGTH_MEDIAN * np.exp(_LENGTH_SIGMA * rng.standard_normal(n))
    return np.minimum(MIN_HISTORY + excess.astype(np.int64), longest)


def _redraw(
    pool: ItemSampler, cell: np.ndarray, attempt: int, rng: np.random.Generator
) -> np.ndarray:
    if attempt < _POPULAR_REDRAWS:
        return pool.draw(cell, rng)
    if attempt < _CELL_REDRAWS:
        return pool.draw_evenly(cell, rng)
    return pool.draw_any(len(cell), rng)


def _systematic_sample(
    share: np.ndarray, owner: np.ndarray, offsets: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return a kind per history entry; each history follows its shares closely.

    This is systematic sampling: the points of a history are equally spaced, with one random shift,
    and then shuffled. Most histories are short, and a short history of independent draws would show
    little of the user's taste.

    Parameters
    ----------
    share
        Shares of the kinds in each of H histories, `(H, K)`.
    owner
        The history of each entry, `(T,)`.
    offsets
        Offsets of the histories, `(H + 1,)`.
    rng
        Source of the random numbers.
    """
    length = np.diff(offsets)
    rank = np.arange(len(owner)) - offsets[owner]
    point = (rank + rng.random(len(length))[owner]) / length[owner]
    shuffled = np.lexsort((rng.random(len(owner)), owner))
    return _kind_at(share, owner, point[shuffled])


def _target_kinds(share: np.ndarray, user: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a kind per target: by the user's taste for some, at random for the others."""
    by_taste = _kind_at(share, user, rng.random(len(user)))
    at_random = rng.integers(share.shape[1], size=len(user))
    return np.where(rng.random(len(user)) < _BY_TASTE_SHARE, by_taste, at_random)


def _kind_at(share: np.ndarray, row: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return the kind at each `point` in [0, 1), `(T,)`.

    The kinds of a row divide [0, 1) into intervals as long as their shares, in the order of the
    kinds. The result is the kind whose interval contains the point.
    """
    upper = np.cumsum(share, axis=1)[:, :-1]
    return (point[:, None] >= upper[row]).sum(axis=1)
