"""Train a CTR model on a dataset and measure it; a final fit may follow on train and valid rows."""

import dataclasses
import logging

import numpy as np
import torch

from mmctr_pipeline import metrics
from mmctr_pipeline.baselines import Baselines, baseline_scores, compare_with_baselines
from mmctr_pipeline.calibration import CalibrationMap
from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.ids import IdMap
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.training.auto_settings import resolve_auto
from mmctr_pipeline.training.batch_source import (
    TrainingDataError,
    feature_spec,
    item_features,
)
from mmctr_pipeline.training.calibrate import fitting_rows, score_valid
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.diagnosis import Evidence, likely_causes
from mmctr_pipeline.training.metrics_report import MetricsReport, metrics_report
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.score import score
from mmctr_pipeline.training.stopping import epoch_label
from mmctr_pipeline.training.trainer import CtrTrainer, FinalFit, n_parameters
from mmctr_pipeline.training.warm_start import WarmStart, warm_settings

logger = logging.getLogger(__name__)

TRAIN_SAMPLE_ROWS = 50_000
"""Size of the seeded sample of train rows on which the train AUC is measured."""


@dataclasses.dataclass(frozen=True)
class TrainedCtr:
    """A trained model and its metrics.

    `module` is in evaluation mode, on the device it was trained on. `metrics` are floats:
    `valid_auc`, `valid_auc_low`, `valid_auc_high`, `valid_auc_standard_error`, `valid_log_loss`,
    `valid_calibration_error` with its `_limit` (`metrics.Calibration`), `n_valid_positive`,
    `n_valid_negative`, `train_auc` (on a sample of train rows), `best_epoch`,
    `train_rows_per_second` (median over epochs) and, if they are defined, `valid_auc_by_user`,
    `valid_auc_cold` and the AUC of each trivial baseline. `baselines` compares the model with them.
    `valid_scores` are the probabilities of the valid rows in order, `(N,) float32`.

    `calibration` is the map that logits pass before they become probabilities, if
    `training.calibration` asks for one. Log-loss and calibration error are then measured on the
    valid users that the map was not fitted on; the metrics that end in `_uncalibrated` are the same
    two without the map.

    After a final fit, `module` was also trained on the valid rows. Metrics, evaluation, history,
    scores and calibration are then still those of the selection run.

    `warm_start` is the version whose weights the training began with, or empty.

    `likely_causes` are sentences (`training.diagnosis`), if the AUC is no better than chance.
    `id_maps` are those of the dataset: which rows of the model's tables belong to which ids.
    """

    module: CtrModel
    spec: FeatureSpec
    model_config: ModelConfig
    training_config: TrainingConfig
    metrics: dict[str, float]
    evaluation: MetricsReport
    history: TrainingHistory
    valid_scores: np.ndarray
    baselines: Baselines = dataclasses.field(default_factory=Baselines)
    likely_causes: tuple[str, ...] = ()
    final_fit: FinalFit | None = None
    calibration: CalibrationMap | None = None
    id_maps: dict[str, IdMap] = dataclasses.field(default_factory=dict)
    warm_start: str = ""

    @property
    def n_parameters(self) -> int:
        """Number of trained weights."""
        return n_parameters(self.module)


def train_ctr(
    dataset: CtrDataset,
    vectors: ItemVectors,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    device: torch.device,
    checkpoints: Checkpoints | None = None,
    warm_start: WarmStart | None = None,
) -> TrainedCtr:
    """Train a model on the train rows, select its epoch on the valid rows, and measure it.

    With `final_fit`, a new model is then trained on train and valid rows for the same number of
    epochs, and returned. On the CPU, the same seed and number of threads give the same weights, bit
    by bit. torch's global random state is left as it was.

    Raises `TrainingDataError` if train or valid rows lack labels or have labels of only one class,
    or if the model reads vectors that are not given, and `TrainingDivergedError` if the loss is not
    finite.

    Parameters
    ----------
    dataset
        Rows, histories and items.
    vectors
        Fused vectors, and those of the modalities that the model reads.
    model_config, training_config
        Settings.
    device
        Where to train.
    checkpoints
        Where to save progress. A run that finds its own checkpoint there resumes from it, and ends
        with the same weights as without the interruption.
    warm_start
        A model whose weights to begin with, where it fits, for at most `warm_epochs` epochs.
    """
    for name in ("train", "valid"):
        _require_both_classes(dataset.splits[name], name)
    model_config, training_config = resolve_auto(dataset, model_config, training_config)
    if training_config.calibration != "none":
        fitting_rows(dataset)  # raises now rather than after training
    items = item_features(dataset.items, vectors, model_config).to(device)
    logger.info(
        f"{len(dataset.train):,} train and {len(dataset.valid):,} valid rows, "
        f"{len(dataset.histories):,} histories, {int(items.present_I.sum()):,} of "
        f"{len(dataset.items):,} items have a vector"
    )
    spec = feature_spec(dataset, vectors, model_config)
    if warm_start is not None and warm_start.fits(model_config, spec, vectors.identities):
        training_config = warm_settings(training_config)
    else:
        warm_start = None
    settings = (model_config, training_config, device, warm_start)
    trainer = CtrTrainer(dataset, items, spec, *settings)
    module, history = trainer.fit(dataset.train, checkpoints)
    trained = _measured(trainer, module, history, vectors)
    auc, low, high = (trained.metrics[f"valid_auc{end}"] for end in ("", "_low", "_high"))
    logger.info(
        f"{epoch_label(training_config, history.best_epoch)} is the best: valid AUC {auc:.4f} "
        f"[{low:.4f}, {high:.4f}]"
    )
    logger.info(f"trivial baselines on the same rows: {trained.baselines}")
    if not training_config.final_fit:
        return trained
    module, final_fit = trainer.final_fit(history, checkpoints)
    return dataclasses.replace(trained, module=module, final_fit=final_fit)


def _measured(
    trainer: CtrTrainer, module: CtrModel, history: TrainingHistory, vectors: ItemVectors
) -> TrainedCtr:
    """Return a trained model with its metrics, its calibration and the comparison with baselines.

    The errors are those of `score_valid`.
    """
    dataset, config = trainer.dataset, trainer.training_config
    train, valid = dataset.train, dataset.valid
    assert train.label is not None
    assert valid.label is not None
    sample = _sample_of_both_classes(train.label, config.seed)
    train_sample = trainer.source(train.take(sample), trained_on=True)
    train_label = train.label[sample]
    train_scores = score(module, train_sample, config.precision)
    scores = score_valid(module, trainer.source(valid), dataset, config)
    valid_scores = scores.probabilities
    report = metrics_report(valid, valid_scores, train, dataset.histories, scores.measured)
    trivial = baseline_scores(dataset, valid, vectors.text)
    baselines = compare_with_baselines(valid.label, valid_scores, trivial)
    scored = (report, valid_scores, train_label, train_scores, len(train))
    settings = trainer.model_config, config
    return TrainedCtr(
        module=module,
        spec=trainer.spec,
        model_config=trainer.model_config,
        training_config=config,
        metrics={
            **report.headline(),
            **scores.uncalibrated,
            **baselines.metrics,
            "train_auc": metrics.auc(train_label, train_scores),
            "best_epoch": float(history.best_epoch),
            "train_rows_per_second": float(np.median([e.rows_per_second for e in history.epochs])),
        },
        evaluation=report,
        history=history,
        valid_scores=valid_scores,
        baselines=baselines,
        likely_causes=likely_causes(Evidence(*scored, trainer.items, history, *settings)),
        calibration=scores.calibration,
        id_maps=dataset.id_maps,
        warm_start=trainer.warm_start.name if trainer.warm_start else "",
    )


def _require_both_classes(split: Split, name: str) -> None:
    if split.label is None:
        raise TrainingDataError(f"{name}: the split has no labels")
    positives = int((split.label == 1).sum())
    if positives in (0, len(split)):
        raise TrainingDataError(
            f"{name}: all {len(split)} labels are of one class ({positives} positive), but an AUC "
            f"needs both; check the column label of {name}.parquet"
        )


def _sample_of_both_classes(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return ascending positions of up to `TRAIN_SAMPLE_ROWS` rows, plus a row of each class."""
    generator = np.random.default_rng(seed)
    n_rows = min(len(labels), TRAIN_SAMPLE_ROWS)
    drawn = generator.choice(len(labels), n_rows, replace=False)
    return np.union1d(drawn, [np.argmax(labels == 1), np.argmax(labels == 0)])
