"""Scoring: a click probability for every row of a split, in order."""

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.memory import keep_freed_memory
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.precision import dtype_for
from mmctr_pipeline.training.batch_source import BatchSource
from mmctr_pipeline.training.step import autocast

SCORING_BATCH_SIZE = 4096
"""Rows per batch, which keeps intermediate results to a few hundred MB."""


def score(
    module: nn.Module,
    source: BatchSource,
    precision: str = "float32",
    batch_size: int = SCORING_BATCH_SIZE,
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
    """
    keep_freed_memory()
    share = isinstance(module, CtrModel) and module.shares_histories
    probabilities_N = torch.empty(len(source), dtype=torch.float32, device=source.device)
    was_training = module.training
    module.eval()
    try:
        dtype = dtype_for(precision, source.device)
        with torch.inference_mode(), autocast(dtype, source.device):
            start = 0
            for batch in source.in_order(batch_size, share):
                stop = start + len(batch)
                probabilities_N[start:stop] = torch.sigmoid(module(batch).float())
                start = stop
    finally:
        module.train(was_training)
    return probabilities_N.cpu().numpy()
