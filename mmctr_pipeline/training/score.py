"""Scoring: a click probability or logit for every row of a split, in order."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.calibration import CalibrationMap
from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.memory import keep_freed_memory
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.precision import dtype_for
from mmctr_pipeline.training.batch_source import BatchSource
from mmctr_pipeline.training.step import autocast

logger = logging.getLogger(__name__)

SCORING_BATCH_SIZE = 4096
"""Rows per batch, which keeps intermediate results to a few hundred MB."""


def score(
    module: nn.Module,
    source: BatchSource,
    precision: str = "float32",
    batch_size: int = SCORING_BATCH_SIZE,
    calibration: CalibrationMap | None = None,
) -> np.ndarray:
    """Return click probabilities, `(N,) float32`, in the order of the split.

    The module runs in evaluation mode and returns to its previous mode. The host waits for the
    device only after the last batch.

    Parameters
    ----------
    module
        Model to score with, on the device of `source`.
    source
        Rows to score.
    precision
        Number format of matrix products, as in `TrainingConfig`.
    batch_size
        Rows per batch.
    calibration
        Map that the logits pass first, if any.
    """

    def probabilities(logits_B: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(calibration(logits_B) if calibration else logits_B)

    return _outputs(module, source, precision, batch_size, probabilities)


def score_logits(module: nn.Module, source: BatchSource, precision: str = "float32") -> np.ndarray:
    """Return logits, `(N,) float32`, before any calibration; arguments as in `score`."""
    return _outputs(module, source, precision, SCORING_BATCH_SIZE, lambda logits_B: logits_B)


def _outputs(
    module: nn.Module,
    source: BatchSource,
    precision: str,
    batch_size: int,
    transform: Callable[[torch.Tensor], torch.Tensor],
) -> np.ndarray:
    """Return transformed logits, `(N,) float32`, in the order of the split."""
    if len(source) == 0:
        return np.zeros(0, np.float32)
    keep_freed_memory()
    share = isinstance(module, CtrModel) and (
        module.shares_histories or (module.shares_one_history and source.has_one_history)
    )
    outputs_N = torch.empty(len(source), dtype=torch.float32, device=source.device)
    progress = Progress(logger, "scoring", len(source))
    was_training = module.training
    module.eval()
    try:
        dtype = dtype_for(precision, source.device)
        with torch.inference_mode(), autocast(dtype, source.device):
            start = 0
            for batch in source.in_order(batch_size, share):
                stop = start + len(batch)
                outputs_N[start:stop] = transform(module(batch).float())
                start = stop
                progress.advance(len(batch))
    finally:
        module.train(was_training)
    return outputs_N.cpu().numpy()
