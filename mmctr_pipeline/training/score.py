"""Scoring: probabilities for every row of a split, in order."""

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.memory import keep_freed_memory
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.precision import dtype_for
from mmctr_pipeline.training.batches import BatchSource
from mmctr_pipeline.training.step import autocast

SCORING_BATCH_SIZE = 4096
"""Rows per scoring batch: a few hundred MB of intermediate results at most."""


def score(
    module: nn.Module,
    source: BatchSource,
    precision: str = "float32",
    batch_size: int = SCORING_BATCH_SIZE,
) -> np.ndarray:
    """Return click probabilities, `(N,) float32`, in the order of the split.

    `precision` is that of `TrainingConfig`. The module runs in evaluation mode and is left in the
    mode it was in. Nothing waits for the device until all batches are on their way.
    """
    keep_freed_memory()
    share = isinstance(module, CtrModel) and module.shares_histories
    dtype = dtype_for(precision, source.device)
    probabilities_N = torch.empty(len(source), dtype=torch.float32, device=source.device)
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode(), autocast(dtype, source.device):
            start = 0
            for batch in source.in_order(batch_size, share):
                stop = start + len(batch)
                probabilities_N[start:stop] = torch.sigmoid(module(batch).float())
                start = stop
    finally:
        module.train(was_training)
    return probabilities_N.cpu().numpy()
