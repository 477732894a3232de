"""The users of the sample dataset: tastes, histories, targets, and labels of known probability."""

import dataclasses

import numpy as np

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.sample.catalogue import CATEGORIES, FAMILY_SIZE, STYLES, Catalogue, ItemSampler
from mmctr_pipeline.sample.config import SampleConfig

MIN_HISTORY = 3
MAX_HISTORY = 100

# Shares of a history that show the favourite, the rest of its family (each), the others (each).
_FAVOURITE_SHARE, _FAMILY_SHARE, _OTHER_SHARE = 0.54, 0.20, 0.02
# What the favourite, the rest of its family and the others add to the logit, in units of effect.
_FAVOURITE_WEIGHT, _FAMILY_WEIGHT, _OTHER_WEIGHT = 1.3, 1.0, -1.0
# Share of the users who like the first family: tastes are not spread evenly.
_FIRST_FAMILY_SHARE = 0.72
# Share of the targets that were chosen for the user's taste; the others were chosen blindly.
_TASTEFUL_SHARE = 0.1
# Histories show mostly the hits, whose embeddings are then learned well; targets are of all kinds,
# so that no model can do without their content.
_HISTORY_POPULARITY, _TARGET_POPULARITY = 3.0, 0.2
# History length is 3 plus a log-normal number: mean 8, standard deviation 7, quartiles 4 / 6 / 9.
_LENGTH_MEDIAN, _LENGTH_SIGMA = 3.4, 1.0
# An item drawn twice is drawn anew from its cell by popularity, then evenly, then from any cell.
_POPULAR_REDRAWS, _CELL_REDRAWS, _MAX_REDRAWS = 2, 8, 200


@dataclasses.dataclass(frozen=True)
class Tastes:
    """What U users like, per category and style: history shares and logit weights, `(U, n)`."""

    category_share: np.ndarray
    category_weight: np.ndarray
    style_share: np.ndarray
    style_weight: np.ndarray


@dataclasses.dataclass(frozen=True)
class Impressions:
    """N rows in user order; `histories` has H lists, `history` `(N,)` points into them.

    `user` is the row's user, counted from 0 in this chunk; `item_id` int64; `probability` the true
    click probability, float64; `label` int64; `user_of_history` `(H,)`.
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
    """Draws what users of one catalogue saw and clicked."""

    def __init__(self, catalogue: Catalogue, config: SampleConfig) -> None:
        self._catalogue = catalogue
        self._config = config
        self._hits = ItemSampler(catalogue, warm=True, popularity_spread=_HISTORY_POPULARITY)
        self._warm = ItemSampler(catalogue, warm=True, popularity_spread=_TARGET_POPULARITY)
        self._cold = ItemSampler(catalogue, warm=False, popularity_spread=_TARGET_POPULARITY)

    def draw(
        self, rows_of_user: np.ndarray, cold_row_share: float, rng: np.random.Generator
    ) -> Impressions:
        """Draw all rows of some users.

        `rows_of_user` `(U,)` says how many rows each gets; each `rows_per_history` of them share a
        history. A user never meets a target twice, nor one that is in the user's histories.
        """
        n_users = len(rows_of_user)
        tastes = draw_tastes(n_users, rng)
        per_history = self._config.rows_per_history
        histories_of_user = -(-rows_of_user // per_history)
        user_of_history = np.repeat(np.arange(n_users), histories_of_user)
        histories = self._draw_histories(user_of_history, tastes, rng)

        user = np.repeat(np.arange(n_users), rows_of_user)
        first_row = np.cumsum(rows_of_user) - rows_of_user
        first_history = np.cumsum(histories_of_user) - histories_of_user
        rank = np.arange(len(user)) - first_row[user]
        history = first_history[user] + rank // per_history

        seen = np.repeat(user_of_history, histories.lengths) * _id_space(self._catalogue)
        item_id = self._draw_targets(user, seen + histories.values, tastes, cold_row_share, rng)
        probability = self._probability(user, item_id, tastes)
        label = (rng.random(len(user)) < probability).astype(np.int64)
        return Impressions(user, item_id, history, histories, user_of_history, probability, label)

    def _draw_histories(self, user: np.ndarray, tastes: Tastes, rng: np.random.Generator) -> Ragged:
        longest = max(MIN_HISTORY, min(MAX_HISTORY, len(self._warm) // 8))
        length = draw_history_lengths(len(user), rng, longest)
        offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        owner = np.repeat(np.arange(len(user)), length)
        category = _spread(tastes.category_share[user], owner, offsets, rng)
        style = _spread(tastes.style_share[user], owner, offsets, rng)
        cell = category * len(STYLES) + style
        item_id = self._hits.draw(cell, rng)
        for attempt in range(_MAX_REDRAWS):
            again = _repeated(owner * _id_space(self._catalogue) + item_id)
            if len(again) == 0:
                return Ragged(item_id.astype(np.int32), offsets)
            item_id[again] = _redraw(self._hits, cell[again], attempt, rng)
        raise RuntimeError("the catalogue is too small for histories of distinct items")

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
        cell = _target_part(tastes.category_share, user, rng) * len(STYLES)
        cell += _target_part(tastes.style_share, user, rng)
        item_id = np.zeros(len(user), dtype=np.int64)
        again = np.arange(len(user))
        for attempt in range(_MAX_REDRAWS):
            for pool, rows in ((self._warm, again[~cold[again]]), (self._cold, again[cold[again]])):
                if len(rows):
                    item_id[rows] = _redraw(pool, cell[rows], attempt, rng)
            key = user * _id_space(self._catalogue) + item_id
            bad = np.isin(key, seen)
            bad[_repeated(key)] = True
            again = np.flatnonzero(bad)
            if len(again) == 0:
                return item_id
        raise RuntimeError("the catalogue is too small for the rows that each user gets")

    def _probability(self, user: np.ndarray, item_id: np.ndarray, tastes: Tastes) -> np.ndarray:
        config, row = self._config, item_id - 1
        logit = (
            config.intercept
            + config.style_effect * tastes.style_weight[user, self._catalogue.style[row]]
            + config.category_effect * tastes.category_weight[user, self._catalogue.category[row]]
            + config.popularity_effect * self._catalogue.log_popularity[row]
        )
        return 1.0 / (1.0 + np.exp(-logit))


def draw_tastes(n_users: int, rng: np.random.Generator) -> Tastes:
    """Draw each user's favourite category and style; the rest of their families is liked too."""
    category_share, category_weight = _likings(n_users, len(CATEGORIES), rng)
    style_share, style_weight = _likings(n_users, len(STYLES), rng)
    return Tastes(category_share, category_weight, style_share, style_weight)


def draw_history_lengths(n: int, rng: np.random.Generator, longest: int) -> np.ndarray:
    """Draw `(n,) int64` lengths from 3 to `longest`: mean about 8, with a long tail."""
    beyond = _LENGTH_MEDIAN * np.exp(_LENGTH_SIGMA * rng.standard_normal(n))
    return np.minimum(MIN_HISTORY + beyond.astype(np.int64), longest)


def _likings(n_users: int, n_kinds: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    other_family = rng.random(n_users) >= _FIRST_FAMILY_SHARE
    favourite = rng.integers(FAMILY_SIZE, size=n_users) + FAMILY_SIZE * other_family
    in_family = favourite[:, None] // FAMILY_SIZE == np.arange(n_kinds) // FAMILY_SIZE
    is_favourite = favourite[:, None] == np.arange(n_kinds)
    share = np.where(in_family, _FAMILY_SHARE, _OTHER_SHARE)
    weight = np.where(in_family, _FAMILY_WEIGHT, _OTHER_WEIGHT)
    return (
        np.where(is_favourite, _FAVOURITE_SHARE, share),
        np.where(is_favourite, _FAVOURITE_WEIGHT, weight),
    )


def _redraw(
    pool: ItemSampler, cell: np.ndarray, attempt: int, rng: np.random.Generator
) -> np.ndarray:
    if attempt < _POPULAR_REDRAWS:
        return pool.draw(cell, rng)
    if attempt < _CELL_REDRAWS:
        return pool.draw_evenly(cell, rng)
    return pool.draw_any(len(cell), rng)


def _spread(
    share: np.ndarray, owner: np.ndarray, offsets: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return a kind per history entry, so that each history follows its shares closely.

    Systematic sampling: equally spaced points with one random shift per history, in random order.
    Independent draws would leave short histories, the most frequent, silent about their owner.
    """
    length = np.diff(offsets)
    rank = np.arange(len(owner)) - offsets[owner]
    point = (rank + rng.random(len(length))[owner]) / length[owner]
    shuffled = np.lexsort((rng.random(len(owner)), owner))
    return _kind_at(share, owner, point[shuffled])


def _target_part(share: np.ndarray, user: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tasteful = _kind_at(share, user, rng.random(len(user)))
    blind = rng.integers(share.shape[1], size=len(user))
    return np.where(rng.random(len(user)) < _TASTEFUL_SHARE, tasteful, blind)


def _kind_at(share: np.ndarray, row: np.ndarray, point: np.ndarray) -> np.ndarray:
    upper = np.cumsum(share, axis=1)[:, :-1]
    return (point[:, None] >= upper[row]).sum(axis=1)


def _repeated(key: np.ndarray) -> np.ndarray:
    """Return the positions of all but the first occurrence of each key."""
    first = np.unique(key, return_index=True)[1]
    repeated = np.ones(len(key), dtype=bool)
    repeated[first] = False
    return np.flatnonzero(repeated)


def _id_space(catalogue: Catalogue) -> int:
    return len(catalogue) + 1
