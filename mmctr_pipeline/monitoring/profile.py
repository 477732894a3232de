"""Profiles of a night: its data, and the scores of its submission, as figures to compare later."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from mmctr_pipeline.baselines import baseline_scores
from mmctr_pipeline.data.build import column_types
from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.tables import open_table
from mmctr_pipeline.metrics import auc

_LONGEST = 1_000
"""Longer histories are counted with those of this length."""

_MOST_ROWS = 100
"""Rows of one user that count at most, in multiples of the mean."""

_LOGIT_EDGES = np.linspace(-12, 12, 97)
"""Edges between the bins of scores: fine enough for click rates of one in 100,000."""

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A count or a share, with the number of independent observations behind it."""

    value: float
    size: float


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Number of rows in each of some ordered bins, with their mean value.

    `size` is the number of independent observations behind them. Empty bins at the end may be left
    out of `counts`.
    """

    counts: list[int]
    mean: float
    size: float


@dataclasses.dataclass(frozen=True)
class DataProfile:
    """The data of a night in figures. Keys name table and column: `valid.label_rate`.

    Parameters
    ----------
    fingerprint
        Fingerprint of the dataset.
    folder
        The data folder as it was named, perhaps a link. Data of another folder are not compared.
    day
        Last day of the data as YYYY-MM-DD, "" if they are not logs by day.
    schema
        Type of each column, by table and column.
    counts
        `rows`, `users` and `items` (distinct targets) of each split, and `item_feature.rows`.
    shares
        `label_rate` of train and valid. `unknown_items` and `unknown_users` of valid and test: the
        shares of rows with a target, or a user, that no train row has. `item_images.coverage`: the
        share of items with a cover file. `valid.rates_auc`: AUC of the click rates of item and user
        in train on the last valid day, that is, the share of pairs that they rank as the labels do.
    distributions
        `history_length`, `likes_level` and `views_level` of the rows of each split.
    """

    fingerprint: str
    folder: str
    day: str
    schema: dict[str, dict[str, str]]
    counts: dict[str, Figure]
    shares: dict[str, Figure]
    distributions: dict[str, Distribution]

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Self:
        """Build from `dataclasses.asdict`; raises `KeyError` or `TypeError` for other content."""
        return cls(
            content["fingerprint"],
            content["folder"],
            content["day"],
            content["schema"],
            counts={name: Figure(**each) for name, each in content["counts"].items()},
            shares={name: Figure(**each) for name, each in content["shares"].items()},
            distributions={
                name: Distribution(**each) for name, each in content["distributions"].items()
            },
        )

    @property
    def numbers(self) -> dict[str, float]:
        """The counts and shares by table and column."""
        return {name: figure.value for name, figure in (self.counts | self.shares).items()}


@dataclasses.dataclass(frozen=True)
class ScoreProfile:
    """The scores of a submission: their histogram over fixed bins, and some quantiles."""

    histogram: Distribution
    quantiles: dict[str, float]

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Self:
        """Build from `dataclasses.asdict`; raises `KeyError` or `TypeError` for other content."""
        return cls(Distribution(**content["histogram"]), content["quantiles"])


def profile_data(dataset: CtrDataset, layout: DataLayout) -> DataProfile:
    """Profile the data of a night: the dataset, and the files that it was built from.

    Raises `DataError` if item_info, which the dataset does not need, cannot be opened.

    Parameters
    ----------
    dataset
        As `build_dataset` returns it, with its provenance.
    layout
        Where the item tables and the covers are.
    """
    n_items = len(dataset.items)
    counts = {"item_feature.rows": Figure(n_items, n_items)}
    shares: dict[str, Figure] = {}
    distributions: dict[str, Distribution] = {}
    for name, split in dataset.splits.items():
        size = independent_size(split.user_id)
        n_users = len(np.unique(split.user_id))
        columns = {
            "history_length": np.minimum(dataset.histories.lengths[split.history], _LONGEST),
            "likes_level": split.likes_level,
            "views_level": split.views_level,
        }
        counts |= {
            f"{name}.rows": Figure(len(split), size),
            f"{name}.users": Figure(n_users, n_users),
            f"{name}.items": Figure(len(np.unique(split.item_id)), size),
        }
        shares |= {
            f"{name}.{key}": Figure(float(rows.mean()), size)
            for key, rows in _marked_rows(split, dataset.train).items()
        }
        distributions |= {
            f"{name}.{key}": Distribution(np.bincount(column).tolist(), float(column.mean()), size)
            for key, column in columns.items()
        }
    shares |= _rates_auc(dataset)
    has_image = layout.images.has_file(dataset.items.ids) if layout.images else np.zeros(1)
    shares["item_images.coverage"] = Figure(float(has_image.mean()), n_items)
    return DataProfile(
        fingerprint=dataset.fingerprint,
        folder=os.path.abspath(layout.root),
        day=dataset.day,
        schema={**dataset.provenance["schema"], **_item_schema(layout)},
        counts=counts,
        shares=shares,
        distributions=distributions,
    )


def profile_scores(scores: np.ndarray, size: float) -> ScoreProfile:
    """Profile the scores of a submission.

    Parameters
    ----------
    scores
        Click probabilities, `(N,)`.
    size
        Number of independent observations behind them (`independent_size`).
    """
    scores = scores.astype(np.float64)
    with np.errstate(divide="ignore"):  # 0 and 1 fall into the outer bins
        logits = np.log(scores) - np.log1p(-scores)
    counts = np.bincount(np.digitize(logits, _LOGIT_EDGES), minlength=len(_LOGIT_EDGES) + 1)
    values = np.quantile(scores, _QUANTILES)
    quantiles = {str(name): float(value) for name, value in zip(_QUANTILES, values, strict=True)}
    return ScoreProfile(Distribution(counts.tolist(), float(scores.mean()), size), quantiles)


def independent_size(user_N: np.ndarray) -> float:
    """Return how many independent observations the rows of users stand for (Kish, 1965).

    Rows of one user resemble each other. This counts them as if they were all equal: the mean of
    the rows then varies as the mean of this number of independent rows. Rows of a user beyond
    `_MOST_ROWS` times the mean do not count, so that a robot with half of the rows cannot make
    every difference look like chance. `user_N` are non-negative integers.
    """
    rows_U = np.bincount(user_N).astype(np.float64)
    rows_U = rows_U[rows_U > 0]
    rows_U = np.minimum(rows_U, _MOST_ROWS * rows_U.mean())
    return float(rows_U.sum() ** 2 / (rows_U**2).sum())


def _marked_rows(split: Split, train: Split) -> dict[str, np.ndarray]:
    """Return which rows have a click, an unknown target and an unknown user, each `(N,)`."""
    marked = {} if split.label is None else {"label_rate": split.label}
    if split is not train:
        marked["unknown_items"] = ~np.isin(split.item_id, train.item_id)
        marked["unknown_users"] = ~np.isin(split.user_id, train.user_id)
    return marked


def _rates_auc(dataset: CtrDataset) -> dict[str, Figure]:
    """Return how well the click rates of train rank the last valid day, if it has both classes.

    Wrong labels, such as swapped ones, may keep every distribution but not this. The variance of an
    AUC is at most that of a share among as many rows as the rarer class has.
    """
    split = dataset.last_valid_day
    scores = baseline_scores(dataset, split, None).scores.get("rates")
    if scores is None or split.label is None or len(np.unique(split.label)) < 2:
        return {}
    rarer = min(split.label.mean(), 1 - split.label.mean())
    size = independent_size(split.user_id) * float(rarer)
    return {"valid.rates_auc": Figure(auc(split.label, scores), size)}


def _item_schema(layout: DataLayout) -> dict[str, dict[str, str]]:
    schema = {}
    for name, path in {"item_feature": layout.item_feature, "item_info": layout.item_info}.items():
        if path is not None:
            with open_table(path, ()) as file:
                schema[name] = column_types(file)
    return schema
