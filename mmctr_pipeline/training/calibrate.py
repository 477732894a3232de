"""Score the valid rows; calibrate on half of their users and measure on the other half."""

import dataclasses
import logging

import numpy as np
from torch import nn

from mmctr_pipeline import metrics
from mmctr_pipeline.calibration import CalibrationMap, fit_calibration
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.user_split import selecting_rows
from mmctr_pipeline.training.batch_source import BatchSource, TrainingDataError
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.score import score, score_logits

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ValidScores:
    """Probabilities of the valid rows, `(N,) float32`, and the map that calibrated them.

    `measured`, `(N,) bool`, is True for the rows that log-loss and calibration error are measured
    on: those that the map was not fitted on. None means all rows: the map was fitted on all of
    them, or there is no map.
    `uncalibrated` holds both metrics of the same rows without the map.
    """

    probabilities: np.ndarray
    calibration: CalibrationMap | None = None
    measured: np.ndarray | None = None
    uncalibrated: dict[str, float] = dataclasses.field(default_factory=dict)


def fitting_rows(dataset: CtrDataset) -> np.ndarray:
    """Return which valid rows a calibration map is fitted on, `(N,) bool`: those of half the users.

    In a comparison the valid split has already been reduced to this half, which also selects the
    epoch, so all its rows are returned. Raises `TrainingDataError` if the returned rows lack a
    class.
    """
    label, fits = dataset.valid.label, selecting_rows(dataset)
    n_rows, n_clicks = int(fits.sum()), int((label[fits] == 1).sum()) if label is not None else 0
    if n_clicks in (0, n_rows):
        raise TrainingDataError(
            f"the half of the valid users that calibration is fitted on has {n_rows} rows, "
            f"{n_clicks} with a click, but both classes are needed: give valid.parquet more users, "
            "or set training.calibration to none"
        )
    return fits


def score_valid(
    module: nn.Module, valid: BatchSource, dataset: CtrDataset, config: TrainingConfig
) -> ValidScores:
    """Score the valid rows and, unless `config.calibration` is "none", calibrate the scores.

    Parameters
    ----------
    module
        The trained model.
    valid
        Source of the valid rows.
    dataset
        The dataset of these rows, for their users and labels.
    config
        Calibration and number format.
    """
    if config.calibration == "none":
        return ValidScores(score(module, valid, config.precision))
    label, fits = dataset.valid.label, fitting_rows(dataset)
    assert label is not None
    logits = score_logits(module, valid, config.precision)
    calibration = fit_calibration(logits[fits], label[fits])
    probabilities = score(module, valid, config.precision, calibration=calibration)
    measured = None if fits.all() else ~fits
    rows = slice(None) if measured is None else measured
    before = np.exp(-np.logaddexp(0, -logits[rows].astype(np.float64)))
    error_before = metrics.calibration(label[rows], before).error
    uncalibrated = {
        "valid_log_loss_uncalibrated": metrics.log_loss(label[rows], before),
        "valid_calibration_error_uncalibrated": error_before,
    }
    after = metrics.calibration(label[rows], probabilities[rows])
    logger.info(
        f"calibration: {len(calibration.slopes)} segments fitted on {calibration.n_rows:,} valid "
        f"rows; on {'the same' if measured is None else f'the {len(before):,} other'} rows the "
        f"calibration error was {error_before:.4f} before and is {after.error:.4f} now (a "
        f"perfectly calibrated model would be below {after.limit:.4f} in 95 % of cases)"
    )
    return ValidScores(probabilities, calibration, measured, uncalibrated)
