"""Losses of CTR models, and the in-batch negatives that they may be computed on."""

import dataclasses

import torch
from torch import nn

from mmctr_pipeline.models.batch import Batch


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


def in_batch_negatives(batch: Batch, share: float) -> Batch:
    """Return the batch with other targets in `share` of its rows without a click.

    Such a row takes the target, levels included, of a random row of the batch, clicked there or
    not, and keeps its user and history. Where negatives are draws from the catalogue, and nobody
    saw and passed over them, another draw does as well: with ever new ones no model learns the few
    by heart, and since clicked targets are drawn too, none learns by heart which items were clicked
    how often. Rows are chosen by torch's random state; the device need not be waited for.
    """
    assert batch.label_B is not None
    draw_2B = torch.rand(2, len(batch), device=batch.label_B.device)
    own_B = torch.arange(len(batch), device=batch.label_B.device)
    is_replaced_B = (batch.label_B == 0) & (draw_2B[0] < share)
    source_B = torch.where(is_replaced_B, draw_2B[1].argsort(), own_B)
    return dataclasses.replace(
        batch,
        item_id_B=batch.item_id_B[source_B],
        likes_level_B=batch.likes_level_B[source_B],
        views_level_B=batch.views_level_B[source_B],
    )
