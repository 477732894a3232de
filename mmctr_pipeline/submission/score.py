"""Scoring the test rows with a saved model, after re-checking what the model file records."""

import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import polars as pl
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.registry.model_file import (
    ModelFile,
    build_module,
    model_settings,
    require_identity,
)
from mmctr_pipeline.submission.files import SubmissionError, submission_frame
from mmctr_pipeline.training.batches import BatchSource, item_features
from mmctr_pipeline.training.ctr import required_modalities
from mmctr_pipeline.training.score import score

REQUIRED_METRICS = ("valid_auc", "valid_auc_low", "valid_auc_high")


class BelowAucFloorError(SubmissionError):
    """The model is not good enough to be submitted, or does not say how good it is."""


def require_auc_floor(model_file: ModelFile) -> None:
    """Raise `BelowAucFloorError` unless the recorded validation AUC reaches the recorded floor.

    The asset check guards only the run that trained the model; this guards every other one.
    """
    absent = [
        name
        for name in REQUIRED_METRICS
        if not math.isfinite(model_file.metrics.get(name, math.nan))
    ]
    if absent:
        raise BelowAucFloorError(
            f"the model file records no usable {', '.join(absent)}; nothing is submitted from a "
            "model of unknown quality: materialise trained_model again"
        )
    auc, floor = model_file.metrics["valid_auc"], model_file.auc_floor
    # Turned around, so that a floor that is not a number stops as well.
    if not auc >= floor:
        raise BelowAucFloorError(
            f"the model's validation AUC {auc:.4f} is below its floor {floor:.4f} "
            "(checks.auc_floor of the preset it was trained under): train a better one, or lower "
            "the floor and materialise trained_model again"
        )


def require_test_ids(dataset: CtrDataset, test_id: np.ndarray) -> None:
    """Raise `SubmissionError` unless the dataset's test rows are those of the test file.

    `test_id` is the column `ID` of the test file, `(N,) int64`.
    """
    if dataset.test.row_id is None or not np.array_equal(dataset.test.row_id, test_id):
        raise SubmissionError(
            f"test.parquet has {len(test_id):,} rows that are not those of train_dataset "
            f"({len(dataset.test):,}): the file has changed since; materialise train_dataset again"
        )


def score_test(
    model_file: ModelFile,
    dataset: CtrDataset,
    vectors: VectorTable,
    device: torch.device,
    log: Callable[[str], None],
    modalities: Mapping[str, VectorTable] | None = None,
) -> pl.DataFrame:
    """Return `ID` and `Task1&2`, one row per test row in the order of the test file.

    `vectors` are the fused ones, `modalities` those of `text` and `image`, for models that read
    them. Raises `BelowAucFloorError`, `ModelFileError` where the model
    was trained on other vectors, `SubmissionError` where the test split has no column `ID` or a
    score is not a probability.
    """
    require_auc_floor(model_file)
    require_identity(model_file, vectors, modalities or {})
    test = dataset.test
    if test.row_id is None:
        raise SubmissionError("the test split has no column ID; materialise train_dataset again")
    log(f"scoring {len(test):,} test rows on {device}")
    start = time.monotonic()
    module = build_module(model_file, device)
    model_config = model_settings(model_file.model_config)
    read = required_modalities(model_config, modalities or {})
    items = item_features(dataset.items, vectors, read).to(device)
    # Models of before the setting were trained in float32.
    precision = model_file.training_config.get("precision", "float32")
    source = BatchSource(test, dataset.histories, items, device, model_config.max_history)
    probability = score(module, source, precision)
    wrong = ~((probability >= 0) & (probability <= 1))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise SubmissionError(
            f"{int(wrong.sum()):,} scores are no probabilities, the first {probability[row]} in "
            f"row {row} of the test file (ID {test.row_id[row]}): the weights or the vectors are "
            "damaged; materialise trained_model again"
        )
    seconds = time.monotonic() - start
    log(f"scored {len(test):,} rows in {seconds:.1f} s")
    return submission_frame(test.row_id, probability)
