"""The tastes of the sample dataset's users: categories and styles that they like."""

import dataclasses

import numpy as np

from mmctr_pipeline.sample.catalogue import CATEGORIES, FAMILY_SIZE, STYLES

# Kinds are categories or styles. Shares of a history for the user's favourite kind, for each other
# kind of its family, and for each kind of the other family.
_FAVOURITE_SHARE, _FAMILY_SHARE, _OTHER_SHARE = 0.54, 0.20, 0.02
# Added to the logit in these three cases, as multiples of `style_effect` or `category_effect`.
_FAVOURITE_WEIGHT, _FAMILY_WEIGHT, _OTHER_WEIGHT = 1.3, 1.0, -1.0
# Share of users who like the first family. It is not a half, as real tastes are uneven.
_FIRST_FAMILY_SHARE = 0.72


@dataclasses.dataclass(frozen=True)
class Liking:
    """Preferences of U users for K categories or styles.

    `share` is the share of each kind in a user's histories, `weight` its effect on the logit, both
    `(U, K)`.
    """

    share: np.ndarray
    weight: np.ndarray


@dataclasses.dataclass(frozen=True)
class Tastes:
    """Preferences of U users."""

    category: Liking
    style: Liking

    @classmethod
    def of(cls, favourites: np.ndarray) -> "Tastes":
        """Return the tastes of users with these favourites, `(U, 2)` as of `draw_favourites`."""
        return cls(
            category=_liking(favourites[:, 0], len(CATEGORIES)),
            style=_liking(favourites[:, 1], len(STYLES)),
        )


def draw_favourites(n_users: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the favourite category and style of each user, `(n_users, 2) int8`."""
    columns = []
    for _ in (CATEGORIES, STYLES):
        other_family = rng.random(n_users) >= _FIRST_FAMILY_SHARE
        columns.append(rng.integers(FAMILY_SIZE, size=n_users) + FAMILY_SIZE * other_family)
    return np.stack(columns, axis=1).astype(np.int8)


def _liking(favourite: np.ndarray, n_kinds: int) -> Liking:
    """Return the preferences of users for a favourite kind and for the rest of its family."""
    in_family = favourite[:, None] // FAMILY_SIZE == np.arange(n_kinds) // FAMILY_SIZE
    is_favourite = favourite[:, None] == np.arange(n_kinds)
    cases = [is_favourite, in_family]
    return Liking(
        share=np.select(cases, [_FAVOURITE_SHARE, _FAMILY_SHARE], _OTHER_SHARE),
        weight=np.select(cases, [_FAVOURITE_WEIGHT, _FAMILY_WEIGHT], _OTHER_WEIGHT),
    )
