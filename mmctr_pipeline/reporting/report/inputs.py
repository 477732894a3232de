"""The inputs of a model report."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.images import ImageIndex
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.registry.model_file import ModelFile, has_identity

MAX_TEST_ROWS = 100_000


class ReportError(ValueError):
    """A report cannot be drawn from these inputs; the message says what to materialise."""


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """A model, the data and vectors it was trained on, and its scores.

    Raises `ReportError` if the model was trained on other data or vectors.

    Parameters
    ----------
    model, version
        The model file and the name of its version.
    dataset, vectors
        Those that the model was trained on.
    images
        The covers, or None.
    valid_scores
        The model's probabilities of the valid rows, `(N,)`. After a final fit, those of the
        selection run.
    test_scores
        Its probabilities of the rows `sampled_test_rows`.
    contest
        The record of the last contest (`reporting.contest`), or None. It is shown only if this
        version took part.
    champion
        The version that is the champion now, or empty.
    """

    model: ModelFile
    version: str
    dataset: CtrDataset
    vectors: ItemVectors
    images: ImageIndex | None
    valid_scores: np.ndarray
    test_scores: np.ndarray
    contest: Mapping[str, Any] | None = None
    champion: str = ""

    def __post_init__(self) -> None:
        require_same_inputs(self.model, self.dataset, self.vectors)


def require_same_inputs(model: ModelFile, dataset: CtrDataset, vectors: ItemVectors) -> None:
    """Raise `ReportError` unless the model was trained on this dataset and these vectors."""
    changed = []
    if model.data_fingerprint != dataset.fingerprint:
        changed.append("train_dataset has")
    if not has_identity(model, vectors):
        changed.append("the item vectors have")
    if changed:
        raise ReportError(
            f"no report can be drawn of this model: {' and '.join(changed)} changed since it was "
            "trained, and its scores of other rows would mean nothing; materialise trained_model "
            "again, then model_report"
        )


def sampled_test_rows(dataset: CtrDataset) -> np.ndarray:
    """Return the test rows whose scores a report shows, ascending: all, or 100,000 at random."""
    n_rows = len(dataset.test)
    if n_rows <= MAX_TEST_ROWS:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(0).choice(n_rows, MAX_TEST_ROWS, replace=False))
