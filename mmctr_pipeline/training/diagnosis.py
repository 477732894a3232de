"""Likely causes of a validation AUC that is no better than chance.

Each cause is named only if a measured number supports it, and the number is part of the sentence.
"""

import dataclasses
import logging
import math
from collections.abc import Callable

import numpy as np

from mmctr_pipeline import metrics
from mmctr_pipeline.models.batch import ItemFeatures
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.metrics_report import MetricsReport
from mmctr_pipeline.training.run_state import TrainingHistory

logger = logging.getLogger(__name__)

_EQUAL_SCORES = 1e-3
_WIDE_INTERVAL = 0.1
_MOSTLY = 0.9
_FEW_STEPS = 100
_LOW_RATE = 1e-5
_RISING, _EXPLODED = 1.02, 2.0
"""The train loss is too high in two cases: in the last epoch it exceeds both the loss of the first
epoch and that of a constant prediction by the factor `_RISING`, or in any epoch it exceeds that of
a constant prediction by the factor `_EXPLODED`."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The measurements of a training run that may show why its AUC is low.

    `valid_scores` are the probabilities of the valid rows. `train_scores` are those of a sample of
    the train rows, whose labels are `train_label`. `n_train_rows` counts all train rows.
    """

    report: MetricsReport
    valid_scores: np.ndarray
    train_label: np.ndarray
    train_scores: np.ndarray
    n_train_rows: int
    items: ItemFeatures
    history: TrainingHistory
    model_config: ModelConfig
    config: TrainingConfig

    @property
    def train_auc(self) -> metrics.AucInterval:
        """AUC on the sample of train rows, with its interval."""
        return metrics.auc_interval(self.train_label, self.train_scores)

    @property
    def fits_train_rows(self) -> bool:
        """True if the AUC on train rows is better than chance."""
        return self.train_auc.low > 0.5

    @property
    def train_loss(self) -> float:
        """Train loss of the last epoch."""
        return self.history.epochs[-1].train_loss

    @property
    def learning_rate(self) -> float:
        """The highest learning rate at the start of an epoch."""
        return max(record.learning_rate for record in self.history.epochs)

    @property
    def constant_loss(self) -> float:
        """Train loss of the best prediction that is the same for every row."""
        smoothing, weight = self.config.label_smoothing, self.config.pairwise_weight
        pointwise = 1 - weight - self.config.joint_weight  # the contrast of equal logits is 0
        p = float(self.train_label.mean()) * (1 - smoothing) + smoothing / 2
        entropy = -sum(share * math.log(share) for share in (p, 1 - p))
        return pointwise * entropy + weight * math.log(2)


def likely_causes(evidence: Evidence) -> tuple[str, ...]:
    """Return and log a sentence for each likely cause; none if the AUC is better than chance.

    Better than chance means that the 95 % interval of the AUC is above 0.5.
    """
    if evidence.report.auc.low > 0.5:
        return ()
    sentences = tuple(found for cause in _CAUSES if (found := cause(evidence)))
    for sentence in sentences:
        logger.warning(f"the valid AUC is no better than chance; a likely cause: {sentence}")
    return sentences


def _inverted_labels(evidence: Evidence) -> str | None:
    auc = evidence.report.auc
    if auc.high >= 0.5 or not evidence.fits_train_rows:
        return None
    return (
        f"the order is reversed (1 - AUC is {1 - auc.auc:.4f}, and the train AUC is "
        f"{evidence.train_auc.auc:.4f}): the labels of train and valid may have opposite meanings"
    )


def _memorised(evidence: Evidence) -> str | None:
    if evidence.report.auc.high < 0.5 or not evidence.fits_train_rows:
        return None
    return (
        f"the model fits the train rows (AUC {evidence.train_auc.auc:.4f}), but what it learned "
        "does not hold for valid rows: the labels of one of the files may be shuffled, an id may "
        "mean another user or item in valid than in train, or the model memorises ids"
    )


def _too_fast(evidence: Evidence) -> str | None:
    epochs, constant = evidence.history.epochs, evidence.constant_loss
    peak = max(epochs, key=lambda record: record.train_loss)
    is_rising = evidence.train_loss > _RISING * max(epochs[0].train_loss, constant)
    has_exploded = peak.train_loss > _EXPLODED * constant
    if evidence.learning_rate < _LOW_RATE or not (is_rising or has_exploded):
        return None
    largest = max(record.largest_gradient_norm or 0.0 for record in epochs)
    return (
        f"the train loss was {peak.train_loss:.4g} in epoch {peak.epoch:g}, above that of a "
        f"constant prediction ({constant:.4g}), with gradient norms up to {largest:.3g} before "
        f"clipping: training.learning_rate ({evidence.config.learning_rate:g}) may be too high, or "
        "item vectors may have extreme values"
    )


def _too_short(evidence: Evidence) -> str | None:
    epochs, config = evidence.history.epochs[-1].epoch, evidence.config
    n_steps = math.ceil(epochs * evidence.n_train_rows / config.batch_size)
    if n_steps >= _FEW_STEPS:
        return None
    return (
        f"training took only {n_steps} steps: lower training.batch_size ({config.batch_size:,}) or "
        "train longer"
    )


def _too_slow(evidence: Evidence) -> str | None:
    if evidence.learning_rate >= _LOW_RATE:
        return None
    return (
        f"no epoch had a higher learning rate than {evidence.learning_rate:.2g}: "
        "training.learning_rate may be too low"
    )


def _nothing_to_learn(evidence: Evidence) -> str | None:
    others = (_too_fast, _too_short, _too_slow)
    if evidence.fits_train_rows or any(cause(evidence) for cause in others):
        return None
    return (
        f"the model does not fit the train rows either (its AUC there is "
        f"{evidence.train_auc.auc:.4f}, its loss {evidence.train_loss:.4f}; a constant prediction "
        f"has the loss {evidence.constant_loss:.4f}): labels may be shuffled, or the features may "
        "lack what decides the clicks"
    )


def _equal_scores(evidence: Evidence) -> str | None:
    low, high = float(evidence.valid_scores.min()), float(evidence.valid_scores.max())
    if high - low >= _EQUAL_SCORES:
        return None
    return f"all valid rows have nearly the same score ({low:.4f} to {high:.4f})"


def _without_vectors(evidence: Evidence) -> str | None:
    items = evidence.items
    if "fused" not in getattr(evidence.model_config, "vector_kinds", ["fused"]):
        return None
    usable_I = items.present_I & (items.vectors_ID != 0).any(dim=1)
    n_items, n_usable = len(usable_I) - 1, int(usable_I.sum())  # row 0 is padding
    if n_usable > (1 - _MOSTLY) * n_items:
        return None
    return f"only {n_usable:,} of {n_items:,} items have a fused vector that is not zero"


def _cold_items(evidence: Evidence) -> str | None:
    buckets = evidence.report.by_popularity
    share = buckets[0].n_rows / sum(bucket.n_rows for bucket in buckets)
    if share < _MOSTLY:
        return None
    return (
        f"{share:.0%} of the valid rows have a target that no train row has, so its id tells "
        "nothing: valid may come from another catalogue or a much later time"
    )


def _few_rows(evidence: Evidence) -> str | None:
    auc = evidence.report.auc
    if auc.high - auc.low <= _WIDE_INTERVAL:
        return None
    return (
        f"the interval is wide: valid has only {auc.n_positive:,} rows with a click and "
        f"{auc.n_negative:,} without"
    )


_CAUSES: tuple[Callable[[Evidence], str | None], ...] = (
    _inverted_labels,
    _memorised,
    _too_fast,
    _too_short,
    _too_slow,
    _nothing_to_learn,
    _equal_scores,
    _without_vectors,
    _cold_items,
    _few_rows,
)
