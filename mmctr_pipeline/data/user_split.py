"""Split the valid users: one half selects the epoch or fits the calibration, the other measures."""

import hashlib

import numpy as np

from mmctr_pipeline.data.dataset import CtrDataset, Split

_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)


class UserSplitError(ValueError):
    """The valid users cannot be split into two parts that both allow an AUC."""


def selects_epoch(user_id: np.ndarray) -> np.ndarray:
    """Return which rows select the epoch, `(N,) bool`; the AUC of the other rows is reported.

    `user_id` has the data's id of each row's user, `(N,)` integers or strings. The side of a row is
    the lowest bit of a hash of this id, SplitMix64 (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014). So all rows of a user are on the same side, and
    neither the order of the rows nor other rows matter.
    """
    return (splitmix64(_numbers(user_id)) & np.uint64(1)).astype(bool)


def splitmix64(numbers: np.ndarray) -> np.ndarray:
    """Return a hash of each number, uint64 to uint64."""
    mixed = numbers + _INCREMENT
    for multiplier, shift in zip(_MULTIPLIERS, (30, 27), strict=True):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * multiplier
    return mixed ^ (mixed >> np.uint64(31))


def _numbers(ids: np.ndarray) -> np.ndarray:
    """Return a number for each id, `(N,) uint64`: integers unchanged, strings hashed."""
    if ids.dtype.kind != "U":
        return ids.astype(np.uint64)
    distinct, place_N = np.unique(ids, return_inverse=True)
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in distinct.tolist()]
    return np.frombuffer(b"".join(digests), "<u8")[place_N]


def selecting_rows(dataset: CtrDataset) -> np.ndarray:
    """Return which valid rows select the epoch, `(N,) bool`, by the data's user ids."""
    user_id, users = dataset.valid.user_id, dataset.users
    return selects_epoch(users.ids_at(user_id) if users else user_id)


def split_valid(dataset: CtrDataset) -> tuple[Split, Split]:
    """Return the selecting and the reporting rows of the valid split, both in order.

    Raises `UserSplitError` if valid has no labels, or if either part lacks a class.
    """
    valid = dataset.valid
    if valid.label is None:
        raise UserSplitError("valid has no labels; a comparison needs them")
    selects = selecting_rows(dataset)
    for name, rows in (("selects the epoch", selects), ("is reported", ~selects)):
        n_rows, n_clicks = int(rows.sum()), int((valid.label[rows] == 1).sum())
        if n_clicks in (0, n_rows):
            raise UserSplitError(
                f"the AUC that {name} is undefined: {n_clicks} of the {n_rows} rows of its users "
                "have a click, but an AUC needs both classes; valid.parquet needs more users"
            )
    return valid.take(selects), valid.take(~selects)
