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


PAIRS_PER_ROW = 16
"""Other rows of the batch that the pairwise loss compares a row with."""


def pairwise_loss(logits_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
    """Return the mean of `log(1 + exp(-(s_p - s_n)))` over pairs of a clicked row p and another n.

    This is the pairwise logistic loss of RankNet (Burges et al. 2005) and BPR (arXiv 1205.2618),
    scores being the logits. Each row is compared with the 16 that follow it in the batch, the last
    with the first, and pairs of one label are left out: batches are shuffled, so that these are
    random pairs. `(B,) float32` in, a scalar in nats out; zero where the batch holds one label.
    """
    total = logits_B.new_zeros(())
    n_pairs = logits_B.new_zeros(())
    for distance in range(1, min(PAIRS_PER_ROW, len(logits_B) - 1) + 1):
        order_B = label_B - label_B.roll(distance)  # 1, -1, or 0 where the labels are equal
        losses_B = nn.functional.softplus(-order_B * (logits_B - logits_B.roll(distance)))
        total = total + (losses_B * order_B.abs()).sum()
        n_pairs = n_pairs + order_B.abs().sum()
    return total / n_pairs.clamp_min(1)
