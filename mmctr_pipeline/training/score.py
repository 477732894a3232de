"""Scoring: probabilities for every row of a split, in order."""

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.training.batches import BatchSource

SCORING_BATCH_SIZE = 4096
"""Rows per scoring batch: a few hundred MB of intermediate results at most."""


def score(
    module: nn.Module, source: BatchSource, batch_size: int = SCORING_BATCH_SIZE
) -> np.ndarray:
    """Return click probabilities, `(N,) float32`, in the order of the split.

    The module runs in evaluation mode and is left in the mode it was in.
    """
    probabilities_N = np.empty(len(source), dtype=np.float32)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            start = 0
            for batch in source.in_order(batch_size):
                stop = start + len(batch)
                probabilities_N[start:stop] = torch.sigmoid(module(batch)).float().cpu().numpy()
                start = stop
    finally:
        module.train(was_training)
    return probabilities_N
