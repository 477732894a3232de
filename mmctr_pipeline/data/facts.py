"""Facts about a dataset that settings depend on: kind of negatives, returning users, cold items."""

import dataclasses
from typing import Literal

import numpy as np

from mmctr_pipeline.data.dataset import CtrDataset

MIN_SAME_RATIO = 0.95
"""If at least this share of the users, or of the histories, have the same ratio of rows without a
click to clicks, rows without a click count as random draws."""

MIN_GROUPS = 20
"""No ratio is computed over fewer users, or histories, with clicks than this."""

MIN_RETURNING = 0.1
"""Users count as returning if at least this share of valid rows have a user who occurs in train."""


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """Statistics of the train and valid rows.

    `same_ratio` is the largest share of users, or of histories, that have the same number of rows
    without a click for each click; `ratio` is that number. The popularity of a row is the number of
    other train rows with a click on its item. `clicked_popularity` is the geometric mean over rows
    with a click, `other_popularity` over rows without one. `returning` is the share of valid rows
    whose user occurs in train, `cold` the share whose target is the target of no train row.
    """

    click_rate: float
    same_ratio: float
    ratio: float
    clicked_popularity: float
    other_popularity: float
    returning: float
    cold: float

    @property
    def negatives(self) -> Literal["draws", "impressions"]:
        """Tell whether rows without a click are random draws, or impressions that a user saw.

        Users click on any number of the items that they see, but random draws are made in a fixed
        number for each click.
        """
        return "draws" if self.same_ratio >= MIN_SAME_RATIO else "impressions"

    @property
    def users_return(self) -> bool:
        """Tell whether enough valid rows have a user who occurs in train."""
        return self.returning >= MIN_RETURNING

    def why_negatives(self) -> str:
        """Return the reason for `negatives` as a phrase."""
        share = (
            f"{self.same_ratio:.0%}"
            if self.same_ratio >= MIN_SAME_RATIO
            else (f"only {self.same_ratio:.0%}")
        )
        rows = f"{self.ratio:g} row" + "s" * (self.ratio != 1)
        return (
            f"{share} of the users or histories have exactly {rows} without a click for each click"
        )

    def why_users(self) -> str:
        """Return the reason for `users_return` as a phrase."""
        return f"{self.returning:.1%} of the valid rows have a user who occurs in train"

    def sentences(self) -> list[str]:
        """Return the facts as sentences for logs."""
        return [
            f"rows without a click look like {self.negatives}: {self.why_negatives()}; the "
            f"item of a row with a click typically has {self.clicked_popularity:.1f} other clicks, "
            f"that of a row without a click {self.other_popularity:.1f}",
            f"{self.why_users()}; {self.cold:.1%} have a target that no train row has",
        ]


def data_facts(dataset: CtrDataset) -> DataFacts:
    """Return the facts; train needs labels of both classes."""
    train, valid = dataset.train, dataset.valid
    if train.label is None:
        raise ValueError("the facts need labelled train rows; these have no labels")
    is_clicked = train.label == 1
    groups = [_ratio(train.user_id, is_clicked), _ratio(train.history, is_clicked)]
    same_ratio, ratio = max(groups)
    popularity_N = np.bincount(train.item_id[is_clicked], minlength=train.item_id.max() + 1)[
        train.item_id
    ] - is_clicked.astype(np.int64)
    log_popularity_N = np.log1p(popularity_N)
    return DataFacts(
        click_rate=float(is_clicked.mean()),
        same_ratio=same_ratio,
        ratio=ratio,
        clicked_popularity=float(np.expm1(log_popularity_N[is_clicked].mean())),
        other_popularity=float(np.expm1(log_popularity_N[~is_clicked].mean())),
        returning=float(np.isin(valid.user_id, train.user_id).mean()),
        cold=float((~np.isin(valid.item_id, train.item_id)).mean()),
    )


def unseen_rows(dataset: CtrDataset) -> dict[str, dict[str, int]]:
    """Count the rows whose value no train row has, for valid and test, and for each column."""
    train = dataset.train
    columns = ("user_id", "item_id", "likes_level", "views_level")
    return {
        name: {
            column: int((~np.isin(getattr(split, column), getattr(train, column))).sum())
            for column in columns
        }
        for name, split in dataset.splits.items()
        if name != "train"
    }


def _ratio(group_N: np.ndarray, is_clicked: np.ndarray) -> tuple[float, float]:
    """Return the share of groups with the most frequent ratio, and this ratio.

    The ratio of a group is that of its rows without a click to its clicks. Groups without a click
    have no ratio, but they count in the total.
    """
    clicks_G = np.bincount(group_N[is_clicked], minlength=group_N.max() + 1)
    others_G = np.bincount(group_N[~is_clicked], minlength=len(clicks_G))
    ratio_G = others_G[clicks_G > 0] / clicks_G[clicks_G > 0]
    if len(ratio_G) < MIN_GROUPS:
        return 0.0, 0.0
    ratios, counts = np.unique(ratio_G, return_counts=True)
    counts[ratios == 0] = 0  # clicks alone say nothing about draws
    best = counts.argmax()
    n_groups = np.count_nonzero(clicks_G + others_G)
    return float(counts[best] / n_groups), float(ratios[best])
