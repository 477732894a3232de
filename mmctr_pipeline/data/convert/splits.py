"""Split interactions by time: each user's last rows become test, the rows before these valid."""

import dataclasses
import logging
from typing import Self

import numpy as np
import polars as pl

from mmctr_pipeline.data.convert.config import ConvertConfig
from mmctr_pipeline.settings import SettingsError

logger = logging.getLogger(__name__)

TRAIN, VALID, TEST = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Rows:
    """N rows, sorted by user and time. Row i has the history `liked_items[begin[i]:end[i]]`.

    `user_id`, `item_id`, `time`, `begin` and `end` are int64, `label` and `split` int8, all `(N,)`.
    `liked_items` has the items that users liked, sorted by user and time, `(K,) int64`.
    """

    user_id: np.ndarray
    item_id: np.ndarray
    time: np.ndarray
    label: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    split: np.ndarray
    liked_items: np.ndarray

    def __len__(self) -> int:
        return len(self.item_id)

    def take(self, rows: np.ndarray) -> Self:
        """Return the rows with these indices or, for a boolean array, where it is True."""
        columns = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if field.name != "liked_items"
        }
        return dataclasses.replace(self, **columns)


def in_time_order(interactions: pl.DataFrame, config: ConvertConfig) -> pl.DataFrame:
    """Return the interactions, of `max_users` users if that is set, sorted by user and time.

    Interactions of a user at the same time are in random order, since the files sort them by item.
    If a user has several interactions with an item, only the earliest stays.

    Parameters
    ----------
    interactions
        Columns `user_id`, `item_id`, `time` (int64) and `liked` (bool).
    config
        Seed and number of users.
    """
    generator = np.random.default_rng([config.seed, 0])
    users = interactions["user_id"].unique().sort()
    if config.max_users is not None and config.max_users < len(users):
        drawn = generator.choice(len(users), config.max_users, replace=False)
        interactions = interactions.filter(pl.col("user_id").is_in(users[np.sort(drawn)].implode()))
        logger.info(f"{config.max_users:,} of {len(users):,} users drawn")
    ordered = (
        interactions.with_columns(draw=pl.Series(generator.random(len(interactions))))
        .sort("user_id", "time", "draw")
        .unique(["user_id", "item_id"], keep="first", maintain_order=True)
        .drop("draw")
    )
    if n_repeated := len(interactions) - len(ordered):
        logger.info(f"{n_repeated:,} repeated pairs of user and item left out")
    return ordered


def split_rows(ordered: pl.DataFrame, config: ConvertConfig) -> Rows:
    """Return a row for each interaction with enough history, and its split.

    A history holds the items that the user liked before the time of the row, but none of the same
    time. Users with fewer than three rows are in train only. Raises `SettingsError` if no user has
    three rows.

    Parameters
    ----------
    ordered
        Interactions in the order of `in_time_order`.
    config
        Minimum and maximum length of histories, and the share of rows to hold out.
    """
    user, time = ordered["user_id"].to_numpy(), ordered["time"].to_numpy()
    liked, item = ordered["liked"].to_numpy(), ordered["item_id"].to_numpy()
    is_new_user = np.append(True, user[1:] != user[:-1])
    is_new_time = is_new_user | np.append(True, time[1:] != time[:-1])
    n_liked = np.append(0, np.cumsum(liked))
    begin, end = n_liked[_run_start(is_new_user)], n_liked[_run_start(is_new_time)]
    is_row = end - begin >= config.min_history
    rows = Rows(
        user_id=user,
        item_id=item,
        time=time,
        label=liked.astype(np.int8),
        begin=np.maximum(begin, end - config.max_history),
        end=end,
        split=np.zeros(len(user), np.int8),
        liked_items=item[liked],
    ).take(is_row)
    logger.info(
        f"{len(rows):,} rows; {(~is_row).sum():,} left out, as their history is shorter than "
        f"min_history {config.min_history}"
    )
    rows = dataclasses.replace(rows, split=_split(rows.user_id, config.held_out))
    if not (rows.split == TEST).any():
        raise SettingsError(
            f"no user has three rows with at least {config.min_history} items in their history. "
            "Fix: lower --min-history, or convert more users"
        )
    return rows


def _run_start(is_start: np.ndarray) -> np.ndarray:
    """Return for each row the first row of its run."""
    return np.maximum.accumulate(np.where(is_start, np.arange(len(is_start)), 0))


def _split(user: np.ndarray, held_out: float) -> np.ndarray:
    """Return the split of each row, `(N,) int8`; the rows are sorted by user and time."""
    _, index, counts = np.unique(user, return_inverse=True, return_counts=True)
    n_held_out = np.clip(np.rint(held_out * counts), 1, np.maximum(counts - 1, 0) // 2)
    from_end = np.cumsum(counts)[index] - 1 - np.arange(len(user))
    split = np.where(from_end < 2 * n_held_out[index], VALID, TRAIN)
    return np.where(from_end < n_held_out[index], TEST, split).astype(np.int8)
