"""Losses of CTR models."""

import torch
from torch import nn


def smoothed_binary_cross_entropy(
    logits_B: torch.Tensor, label_B: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Return the mean binary cross-entropy against the targets `y * (1 - s) + s / 2`.

    `logits_B` and `label_B` are `(B,) float32`, labels 0 or 1; the result is a scalar in nats.
    """
    target_B = label_B * (1 - label_smoothing) + label_smoothing / 2
    return nn.functional.binary_cross_entropy_with_logits(logits_B, target_B)
