"""Training a CTR model on a dataset and measuring it."""

import dataclasses
import logging

import numpy as np
import torch
from torch import nn

from mmctr_pipeline import metrics
from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import FeatureSpec, ItemFeatures
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.training.batches import TrainingDataError, item_features
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr_runs import CtrRuns, FinalFit, joined
from mmctr_pipeline.training.loop import Validation
from mmctr_pipeline.training.metrics_report import MetricsReport, metrics_report
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.score import score

logger = logging.getLogger(__name__)

TRAIN_SAMPLE_ROWS = 50_000
"""Train rows, drawn by the seed, on which the train AUC is measured."""


@dataclasses.dataclass(frozen=True)
class TrainedCtr:
    """A trained model with what was measured.

    `module` is in evaluation mode, on the device it was trained on. `metrics` are floats:
    `valid_auc`, `valid_auc_low`, `valid_auc_high`, `valid_auc_standard_error`, `valid_log_loss`,
    `valid_calibration_error`, `n_valid_positive`, `n_valid_negative`, `train_auc` (on a sample of
    train rows), `best_epoch`, `train_rows_per_second` (median over epochs), and where they are
    defined `valid_auc_by_user` and `valid_auc_cold`. `valid_scores` are the probabilities of the
    valid rows in order, `(N,) float32`.

    With `final_fit` the module was trained on the valid rows too: metrics, evaluation, history and
    scores are then those of the selection run, another module, and say what that one was worth.
    """

    module: CtrModel
    spec: FeatureSpec
    model_config: ModelConfig
    training_config: TrainingConfig
    metrics: dict[str, float]
    evaluation: MetricsReport
    history: TrainingHistory
    valid_scores: np.ndarray
    final_fit: FinalFit | None = None

    @property
    def n_parameters(self) -> int:
        """Number of trained weights."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def feature_spec(
    dataset: CtrDataset, vectors: ItemVectors, model_config: ModelConfig
) -> FeatureSpec:
    """Return the sizes of a model's tables and the widths of the vectors that it reads.

    The width of a modality that no item has, or that the model does not read, is 0.
    """
    largest_user = max(int(split.user_id.max(initial=0)) for split in dataset.splits.values())
    dims = {"text": 0, "image": 0}
    for name in model_config.modalities:
        table = vectors.modality(name)
        if table and table.aligned_to(dataset.items.item_id).present.any():
            dims[name] = table.dim
    return FeatureSpec(
        n_users=largest_user + 1,
        n_items=int(dataset.items.item_id.max(initial=0)) + 1,
        vector_dim=vectors.fused.dim,
        n_tags=int(dataset.items.tags.values.max(initial=0)) + 1,
        text_dim=dims["text"],
        image_dim=dims["image"],
    )


def train_ctr(
    dataset: CtrDataset,
    vectors: ItemVectors,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    device: torch.device,
    checkpoints: Checkpoints | None = None,
) -> TrainedCtr:
    """Train a model on the train rows, select its epoch on the valid rows, and measure it.

    With `final_fit` in the settings the model that is returned is another one, trained on train and
    valid rows for as many epochs. The same seed on the CPU gives the same weights, bit by bit, at
    the same number of threads; torch's global random state is left as it was. A run that finds its
    own checkpoint in `checkpoints` goes on from there, to the same weights. Raises
    `TrainingDataError` for splits without labels or with labels of one class and for vectors that
    the model needs and lacks, `TrainingDivergedError` where the loss is not finite.
    """
    train_labels = _labels_of_both_classes(dataset.train, "train")
    valid_labels = _labels_of_both_classes(dataset.valid, "valid")
    items = item_features(dataset.items, vectors, model_config).to(device)
    _log_coverage(items, dataset)
    spec = feature_spec(dataset, vectors, model_config)
    runs = CtrRuns(dataset.histories, items, spec, model_config, training_config, device)
    valid = runs.source(dataset.valid)

    def validate(module: nn.Module) -> dict[str, float]:
        scores = score(module, valid, training_config.precision)
        if not np.isfinite(scores).all():
            return {"valid_auc": np.nan, "valid_log_loss": np.nan}  # which ends the run
        return {
            "valid_auc": metrics.auc(valid_labels, scores),
            "valid_log_loss": metrics.log_loss(valid_labels, scores),
        }

    validation = Validation(validate, metric="valid_auc")
    module, history = runs.fit(dataset.train, validation, checkpoints)

    sample = _sample_of_both_classes(train_labels, training_config.seed)
    train_sample = runs.source(dataset.train.take(sample))
    train_scores = score(module, train_sample, training_config.precision)
    valid_scores = score(module, valid, training_config.precision)
    evaluation = metrics_report(dataset.valid, valid_scores, dataset.train, dataset.histories)
    measured = _measured(evaluation, metrics.auc(train_labels[sample], train_scores), history)
    logger.info(
        f"{'selection: ' if training_config.final_fit else ''}"
        f"best epoch {history.best_epoch:g}: valid AUC {measured['valid_auc']:.4f} "
        f"[{measured['valid_auc_low']:.4f}, {measured['valid_auc_high']:.4f}]"
    )
    final_fit = None
    if training_config.final_fit:
        rows = joined(dataset.train, dataset.valid)
        module, final_fit = runs.final_fit(rows, validation, history, checkpoints)
    return TrainedCtr(
        module=module,
        spec=spec,
        model_config=model_config,
        training_config=training_config,
        metrics=measured,
        evaluation=evaluation,
        history=history,
        valid_scores=valid_scores,
        final_fit=final_fit,
    )


def _measured(
    evaluation: MetricsReport, train_auc: float, history: TrainingHistory
) -> dict[str, float]:
    interval, cold = evaluation.auc, evaluation.by_popularity[0].auc
    where_defined = {
        "valid_auc_by_user": evaluation.by_user.auc,
        "valid_auc_cold": cold.auc if cold else None,
    }
    return {
        "valid_auc": interval.auc,
        "valid_auc_low": interval.low,
        "valid_auc_high": interval.high,
        "valid_auc_standard_error": interval.standard_error,
        "valid_log_loss": evaluation.log_loss,
        "valid_calibration_error": evaluation.calibration.error,
        "n_valid_positive": float(interval.n_positive),
        "n_valid_negative": float(interval.n_negative),
        "train_auc": train_auc,
        "best_epoch": float(history.best_epoch),
        "train_rows_per_second": float(np.median([e.rows_per_second for e in history.epochs])),
        **{name: value for name, value in where_defined.items() if value is not None},
    }


def _labels_of_both_classes(split: Split, name: str) -> np.ndarray:
    if split.label is None:
        raise TrainingDataError(f"{name}: the split has no labels")
    positives = int((split.label == 1).sum())
    if positives in (0, len(split)):
        raise TrainingDataError(
            f"{name}: all {len(split)} labels are of one class ({positives} positive); "
            f"an AUC needs both, look at the column label of {name}.parquet"
        )
    return split.label


def _sample_of_both_classes(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return ascending positions of at most `TRAIN_SAMPLE_ROWS` rows, of both classes."""
    generator = np.random.default_rng(seed)
    n_rows = min(len(labels), TRAIN_SAMPLE_ROWS)
    drawn = generator.choice(len(labels), n_rows, replace=False)
    one_of_each = [np.argmax(labels == 1), np.argmax(labels == 0)]
    return np.union1d(drawn, one_of_each)


def _log_coverage(items: ItemFeatures, dataset: CtrDataset) -> None:
    n_present = int(items.present_I.sum())
    logger.info(
        f"{len(dataset.train):,} train and {len(dataset.valid):,} valid rows, "
        f"{len(dataset.histories):,} histories, {n_present:,} of {len(dataset.items):,} items "
        "have a vector"
    )
