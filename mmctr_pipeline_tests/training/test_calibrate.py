"""Calibration after training: which rows it is fitted and measured on, and what it leaves alone."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from mmctr_pipeline import metrics, pipeline
from mmctr_pipeline.calibration import fit_calibration
from mmctr_pipeline.data.user_split import selects_epoch
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.training.batch_source import TrainingDataError
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline_tests.registry.model_files import small_model_file
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample

CPU = torch.device("cpu")
# Heavy label smoothing: all probabilities are too close to one half.
PLAIN = TrainingConfig(
    max_epochs=3, batch_size=128, learning_rate=0.01, label_smoothing=0.6, precision="float32"
)
CALIBRATED = dataclasses.replace(PLAIN, calibration="monotone")
SAMPLE = small_sample(n_train=1000, n_valid=3000)


def train(config: TrainingConfig) -> TrainedCtr:
    return train_ctr(*SAMPLE, SMALL_MODEL, config, CPU)


@pytest.fixture(name="plain", scope="module")
def without_calibration() -> TrainedCtr:
    return train(PLAIN)


@pytest.fixture(name="calibrated", scope="module")
def with_calibration() -> TrainedCtr:
    return train(CALIBRATED)


def score_valid(model: TrainedCtr | ModelFile) -> np.ndarray:
    dataset, vectors = SAMPLE
    return pipeline.score(model, dataset, dataset.valid, vectors, CPU)


def test_calibration_changes_neither_weights_nor_ranking(
    plain: TrainedCtr, calibrated: TrainedCtr
) -> None:
    for name, tensor in plain.module.state_dict().items():
        assert torch.equal(tensor, calibrated.module.state_dict()[name]), name
    assert plain.calibration is None
    assert not np.array_equal(plain.valid_scores, calibrated.valid_scores)
    assert calibrated.metrics["valid_auc"] == pytest.approx(plain.metrics["valid_auc"], abs=1e-5)
    assert calibrated.history.best.metrics == plain.history.best.metrics


def test_calibration_is_fitted_on_half_of_the_users_and_measured_on_the_others(
    plain: TrainedCtr, calibrated: TrainedCtr
) -> None:
    valid = SAMPLE[0].valid
    assert valid.label is not None
    fits = selects_epoch(valid.user_id)
    before = plain.valid_scores.astype(np.float64)
    expected = fit_calibration(np.log(before / (1 - before))[fits], valid.label[fits])
    assert calibrated.calibration is not None
    assert calibrated.calibration.n_rows == fits.sum()
    assert calibrated.calibration.slopes == pytest.approx(expected.slopes, rel=1e-3)
    label, after, before = valid.label[~fits], calibrated.valid_scores[~fits], before[~fits]
    found = calibrated.metrics
    assert found["valid_log_loss"] == metrics.log_loss(label, after)
    error = metrics.calibration(label, after)
    assert (found["valid_calibration_error"], found["valid_calibration_error_limit"]) == (
        error.error,
        error.limit,
    )
    assert found["valid_log_loss_uncalibrated"] == pytest.approx(
        metrics.log_loss(label, before), rel=1e-5
    )
    assert found["valid_calibration_error_uncalibrated"] == pytest.approx(
        metrics.calibration(label, before).error, abs=1e-5
    )


def test_an_underconfident_model_gets_honest_probabilities(calibrated: TrainedCtr) -> None:
    found = calibrated.metrics
    assert found["valid_calibration_error_uncalibrated"] > 0.1
    assert found["valid_calibration_error"] < 0.05
    assert found["valid_log_loss"] < found["valid_log_loss_uncalibrated"] - 0.05


def test_saved_models_give_calibrated_scores_and_old_files_give_plain_ones(
    plain: TrainedCtr, calibrated: TrainedCtr, tmp_path: Path
) -> None:
    file = small_model_file(calibrated, SAMPLE[1])
    file.save(tmp_path / "model.pt")
    for model in (calibrated, file, ModelFile.load(tmp_path / "model.pt")):
        np.testing.assert_array_equal(score_valid(model), calibrated.valid_scores)
    # Files of earlier versions have no calibration map.
    old = dataclasses.replace(file, calibration=None)
    np.testing.assert_array_equal(score_valid(old), plain.valid_scores)


def test_a_final_fit_keeps_the_calibration_map_of_the_selection_run(
    calibrated: TrainedCtr, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    final = train(dataclasses.replace(CALIBRATED, final_fit=True))
    assert final.calibration == calibrated.calibration
    assert final.metrics["valid_log_loss"] == calibrated.metrics["valid_log_loss"]
    assert "final fit: the calibration map stays that of the selection run" in caplog.text
    uncalibrated = score_valid(dataclasses.replace(final, calibration=None))
    assert not np.array_equal(score_valid(final), uncalibrated)


def train_with_valid_users(selecting: bool) -> TrainedCtr:
    dataset, vectors = SAMPLE
    rows = selects_epoch(dataset.valid.user_id) == selecting
    half = dataclasses.replace(dataset, valid=dataset.valid.take(rows))
    config = dataclasses.replace(CALIBRATED, max_epochs=1)
    return train_ctr(half, vectors, SMALL_MODEL, config, CPU)


def test_calibration_is_fitted_on_all_valid_rows_if_all_valid_users_select_the_epoch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    trained = train_with_valid_users(selecting=True)
    assert trained.calibration is not None
    assert trained.calibration.n_rows == len(trained.valid_scores)
    assert "on the same rows the calibration error was" in caplog.text


def test_valid_rows_that_allow_no_fit_are_refused_before_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(TrainingDataError, match=r"has 0 rows, 0 with a click.*calibration to none"):
        train_with_valid_users(selecting=False)
    assert "epoch 1" not in caplog.text
