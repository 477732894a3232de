"""Train a CTR model on a dataset and measure it; a final fit may follow on train and valid rows."""

import dataclasses
import logging

import numpy as np
import torch
from torch import nn

from mmctr_pipeline import metrics
from mmctr_pipeline.baselines import Baselines, baseline_scores, compare_with_baselines
from mmctr_pipeline.calibration import CalibrationMap
from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.ids import IdMap
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, FeatureSpec, ItemFeatures
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.training.auto_settings import resolve_auto
from mmctr_pipeline.training.batch_source import (
    BatchSource,
    TrainingDataError,
    feature_spec,
    item_features,
)
from mmctr_pipeline.training.calibrate import fitting_rows, score_valid
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.device import seeded, threads_for
from mmctr_pipeline.training.diagnosis import Evidence, likely_causes
from mmctr_pipeline.training.loop import TrainBatches, fit
from mmctr_pipeline.training.losses import loss_on
from mmctr_pipeline.training.metrics_report import MetricsReport, metrics_report
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.score import score
from mmctr_pipeline.training.stopping import EarlyStopping, FollowSelection, StoppingPolicy

logger = logging.getLogger(__name__)

TRAIN_SAMPLE_ROWS = 50_000
"""Size of the seeded sample of train rows on which the train AUC is measured."""


@dataclasses.dataclass(frozen=True)
class FinalFit:
    """The training on train and valid rows after selection, which cannot be measured.

    `train_loss` is the mean over rows of the last epoch or part of one; `seconds` is the total.
    """

    n_epochs: float
    n_rows: int
    train_loss: float
    seconds: float


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
    `training.calibration` asks for one. Log-loss and calibration error are then those of the valid
    users it was not fitted on, and metrics named `_uncalibrated` show both without it.

    After a final fit, `module` was also trained on the valid rows. Metrics, evaluation, history,
    scores and calibration then are those of the selection run.

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

    @property
    def n_parameters(self) -> int:
        """Number of trained weights."""
        return _n_parameters(self.module)


def train_ctr(
    dataset: CtrDataset,
    vectors: ItemVectors,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    device: torch.device,
    checkpoints: Checkpoints | None = None,
) -> TrainedCtr:
    """Train a model on the train rows, select its epoch on the valid rows, and measure it.

    With `final_fit`, a new model is then trained on train and valid rows for as many epochs, and
    returned. On the CPU, the same seed and number of threads give the same weights, bit by bit.
    torch's global random state is left as it was.

    Raises `TrainingDataError` if train or valid rows lack labels or have labels of one class, or if
    the model reads vectors that are not given; `TrainingDivergedError` if the loss is not finite.

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
        Where to save progress. A run that finds its own checkpoint there resumes, and ends with the
        same weights.
    """
    train_labels = _labels_of_both_classes(dataset.train, "train")
    valid_labels = _labels_of_both_classes(dataset.valid, "valid")
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
    trainer = CtrTrainer(dataset, items, spec, model_config, training_config, device)
    valid = trainer.source(dataset.valid)

    def validate(module: nn.Module) -> dict[str, float]:
        scores = score(module, valid, training_config.precision)
        if not np.isfinite(scores).all():
            return {"valid_auc": np.nan, "valid_log_loss": np.nan}  # this ends the run
        return {
            "valid_auc": metrics.auc(valid_labels, scores),
            "valid_log_loss": metrics.log_loss(valid_labels, scores),
        }

    stopping = EarlyStopping(validate, "valid_auc", training_config)
    module, history = trainer.fit(dataset.train, stopping, checkpoints)

    sample = _sample_of_both_classes(train_labels, training_config.seed)
    train_sample = trainer.source(dataset.train.take(sample), trained_on=True)
    train_scores = score(module, train_sample, training_config.precision)
    scores = score_valid(module, valid, dataset, training_config)
    valid_scores, train_histories = scores.probabilities, (dataset.train, dataset.histories)
    report = metrics_report(dataset.valid, valid_scores, *train_histories, scores.measured)
    auc = report.auc
    logger.info(
        f"{stopping.label(history.best_epoch)} is the best: valid AUC {auc.auc:.4f} "
        f"[{auc.low:.4f}, {auc.high:.4f}]"
    )
    trivial = baseline_scores(dataset, dataset.valid, vectors.text)
    baselines = compare_with_baselines(valid_labels, valid_scores, trivial)
    logger.info(f"trivial baselines on the same rows: {baselines}")
    train_label = train_labels[sample]
    scored = (report, valid_scores, train_label, train_scores, len(train_labels))
    causes = likely_causes(Evidence(*scored, items, history, model_config, training_config))
    final_fit = None
    if training_config.final_fit:
        module, final_fit = trainer.final_fit(history, checkpoints)
    return TrainedCtr(
        module=module,
        spec=spec,
        model_config=model_config,
        training_config=training_config,
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
        likely_causes=causes,
        final_fit=final_fit,
        calibration=scores.calibration,
        id_maps=dataset.id_maps,
    )


@dataclasses.dataclass(frozen=True)
class CtrTrainer:
    """Trains models of one configuration on rows of one dataset."""

    dataset: CtrDataset
    items: ItemFeatures
    spec: FeatureSpec
    model_config: ModelConfig
    training_config: TrainingConfig
    device: torch.device

    def source(self, split: Split, trained_on: bool = False) -> BatchSource:
        """Return a source of batches with the rows of `split`.

        Rows that the model is `trained_on` read click rates without their own fold.
        """
        inputs = split, self.dataset.histories, self.items, self.device
        return BatchSource(*inputs, self.model_config.max_history, trained_on)

    def fit(
        self, rows: Split, stopping: StoppingPolicy, checkpoints: Checkpoints | None = None
    ) -> tuple[CtrModel, TrainingHistory]:
        """Train a new model on `rows`, from which its statistics come as well.

        torch's global random state is left as it was. Errors are those of `training.loop.fit`.
        """
        source, config = self.source(rows, trained_on=True), self.training_config
        with seeded(config.seed, self.device), threads_for(config.batch_size):
            module = build_model(self.model_config, self.spec).to(self.device)
            module.fit_statistics(self.items, rows, self.dataset.histories)
            logger.info(f"{self.model_config.name}: {_n_parameters(module):,} parameters")
            history = fit(
                module,
                module.parameter_groups(),
                TrainBatches(
                    n_rows=len(source),
                    epoch=lambda epoch: source.shuffled(config.batch_size, config.seed, epoch),
                    split=Batch.split,
                ),
                loss_on(rows, config, self.spec.n_items, self.device),
                stopping,
                config,
                checkpoints,
            )
        return module, history

    def final_fit(
        self, selection: TrainingHistory, checkpoints: Checkpoints | None = None
    ) -> tuple[CtrModel, FinalFit]:
        """Train a new model on train and valid rows, up to the best epoch of a selection run.

        `checkpoints` are those of that run, whose own checkpoint is kept.
        """
        train, valid = self.dataset.train, self.dataset.valid
        rows = Split(
            **{
                name: np.concatenate([column, valid.columns[name]])
                for name, column in train.columns.items()
            }
        )
        logger.info(
            f"final fit: {len(rows):,} train and valid rows, {selection.best_epoch:g} epochs, "
            "no validation"
        )
        if self.training_config.calibration != "none":
            logger.info("final fit: the calibration map stays that of the selection run")
        if checkpoints:
            # If a time limit ended selection, a repeated selection may choose another epoch.
            folder = checkpoints.folder / f"final-fit-{selection.best_epoch:g}"
            checkpoints = dataclasses.replace(checkpoints, folder=folder)
        module, history = self.fit(rows, FollowSelection(selection), checkpoints)
        last = history.epochs[-1]
        seconds = sum(record.all_seconds for record in history.epochs)
        return module, FinalFit(last.epoch, len(rows), last.train_loss, seconds)


def _n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _labels_of_both_classes(split: Split, name: str) -> np.ndarray:
    if split.label is None:
        raise TrainingDataError(f"{name}: the split has no labels")
    positives = int((split.label == 1).sum())
    if positives in (0, len(split)):
        raise TrainingDataError(
            f"{name}: all {len(split)} labels are of one class ({positives} positive), but an AUC "
            f"needs both; check the column label of {name}.parquet"
        )
    return split.label


def _sample_of_both_classes(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return ascending positions of at most `TRAIN_SAMPLE_ROWS` rows, and one of each class."""
    generator = np.random.default_rng(seed)
    n_rows = min(len(labels), TRAIN_SAMPLE_ROWS)
    drawn = generator.choice(len(labels), n_rows, replace=False)
    return np.union1d(drawn, [np.argmax(labels == 1), np.argmax(labels == 0)])
