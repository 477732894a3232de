"""Trivial baselines: popularity, smoothed click rates, mean title cosine to the history.

They need no training: they count clicks in the train rows, or compare titles. By default, a model
is submitted only if it beats the best of them.
"""

import dataclasses

import numpy as np

from mmctr_pipeline import metrics
from mmctr_pipeline.data.click_rates import ITEM_SMOOTHING, USER_SMOOTHING, ClickCounts
from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.vectors import VectorTable

NAMES = {"popularity": "popularity", "rates": "click rates", "cosine": "title cosine"}
"""Key and readable name of each baseline."""

_ROWS_PER_BLOCK = 512


def metric_name(key: str) -> str:
    """Return the name of a baseline's AUC among a model's metrics."""
    return f"baseline_{key}_auc"


@dataclasses.dataclass(frozen=True)
class BaselineScores:
    """Scores of N rows by each baseline that is defined on them.

    `scores` has the `(N,) float64` of each defined baseline, `absent` the reason why each other
    baseline is undefined. The keys of both are keys of `NAMES`. A higher score means that a click
    is more likely, but scores are not probabilities.
    """

    scores: dict[str, np.ndarray]
    absent: dict[str, str]


@dataclasses.dataclass(frozen=True)
class BaselineDifference:
    """A baseline compared with a model on the same rows, by DeLong's paired test.

    `auc` is the AUC of the baseline, `difference` the model's AUC minus that of the baseline, and
    `low` the one-sided 95 % lower bound of the difference.
    """

    auc: float
    difference: float
    low: float


@dataclasses.dataclass(frozen=True)
class Baselines:
    """A model compared with the baselines.

    `compared` has each defined baseline, `absent` the reason why each other baseline is undefined.
    The keys of both are keys of `NAMES`. Both are empty if no comparison was made.
    """

    compared: dict[str, BaselineDifference] = dataclasses.field(default_factory=dict)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """The AUC of each baseline by `metric_name`."""
        return {metric_name(key): baseline.auc for key, baseline in self.compared.items()}

    def __str__(self) -> str:
        areas = [f"{NAMES[key]} {baseline.auc:.4f}" for key, baseline in self.compared.items()]
        return ", ".join(areas + [f"no {NAMES[key]} ({why})" for key, why in self.absent.items()])

    def to_mapping(self) -> dict[str, dict[str, float]]:
        """Return `compared` as plain values."""
        return {key: dataclasses.asdict(baseline) for key, baseline in self.compared.items()}


def baseline_scores(dataset: CtrDataset, split: Split, text: VectorTable | None) -> BaselineScores:
    """Score the rows of `split` by each baseline.

    - `popularity`: the number of clicks that the item has in train.
    - `rates`: the sum of two logits. One is that of the item's click rate in train, smoothed by
      `ITEM_SMOOTHING` rows, the other that of the user's, smoothed by `USER_SMOOTHING` rows.
    - `cosine`: the mean cosine between the title vector of the target and the title vectors of the
      history items. If the target has no title vector, or no history item has one, the row gets
      the mean of the other rows' values.

    Parameters
    ----------
    dataset
        The dataset, for its train rows, histories and items.
    split
        N rows of this dataset.
    text
        Title vectors, or None.
    """
    scores: dict[str, np.ndarray] = {}
    absent: dict[str, str] = {}
    train = dataset.train
    try:
        items = ClickCounts.count(train.item_id, train.label)
        users = ClickCounts.count(train.user_id, train.label)
    except ValueError as error:
        absent |= dict.fromkeys(("popularity", "rates"), str(error))
    else:
        scores["popularity"] = items.n_clicks(split.item_id).astype(np.float64)
        item_N = items.logits(split.item_id, ITEM_SMOOTHING)
        scores["rates"] = item_N + users.logits(split.user_id, USER_SMOOTHING)
    cosine_N = _mean_cosines(dataset, split, text) if text is not None else np.zeros(0)
    is_defined_N = np.isfinite(cosine_N)
    if is_defined_N.any():
        scores["cosine"] = np.where(is_defined_N, cosine_N, cosine_N[is_defined_N].mean())
    else:
        absent["cosine"] = "no row has title vectors of both its target and an item of its history"
    return BaselineScores(scores, absent)


def compare_with_baselines(
    label: np.ndarray, scores: np.ndarray, baselines: BaselineScores
) -> Baselines:
    """Compare a model's scores `(N,)` with those of the baselines; `label` is `(N,)` of 0 and 1."""
    absent, compared = dict(baselines.absent), {}
    for key, each in baselines.scores.items():
        try:
            paired = metrics.compare_auc(label, scores, each)
        except metrics.MetricError as error:
            absent[key] = str(error)
            continue
        compared[key] = BaselineDifference(
            auc=metrics.auc(label, each), difference=paired.difference, low=paired.one_sided_low
        )
    return Baselines(compared, absent)


def _mean_cosines(dataset: CtrDataset, split: Split, text: VectorTable) -> np.ndarray:
    """Return each row's mean title cosine, `(N,) float64`, NaN where it is undefined."""
    items, histories = dataset.items, dataset.histories
    aligned = text.aligned_to(items.ids)
    squares_M = np.einsum("md,md->m", aligned.vectors, aligned.vectors, dtype=np.float64)
    norm_M = np.sqrt(squares_M)
    has_title = aligned.present & (norm_M > 0)
    row_M = items.item_id[has_title]
    ids = (items.item_id, split.item_id, histories.values)
    n_items = 1 + max(int(each.max(initial=0)) for each in ids)
    unit_ID = np.zeros((n_items, text.dim), np.float32)
    unit_ID[row_M] = aligned.vectors[has_title] / norm_M[has_title, None]
    is_titled_I = np.zeros(n_items, bool)
    is_titled_I[row_M] = True
    cosine_N = np.full(len(split), np.nan)
    for start in range(0, len(split), _ROWS_PER_BLOCK):
        block = slice(start, start + _ROWS_PER_BLOCK)
        target_B, lists = split.item_id[block], histories.take(split.history[block])
        row_T = np.repeat(np.arange(len(target_B)), lists.lengths)
        target_T, item_T = target_B[row_T], lists.values
        is_pair_T = is_titled_I[target_T] & is_titled_I[item_T]
        cosine_T = np.einsum("td,td->t", unit_ID[target_T], unit_ID[item_T])
        n_pairs_B = np.bincount(row_T, is_pair_T, minlength=len(target_B))
        sum_B = np.bincount(row_T, cosine_T, minlength=len(target_B))
        np.divide(sum_B, n_pairs_B, out=cosine_N[block], where=n_pairs_B > 0)
    return cosine_N
