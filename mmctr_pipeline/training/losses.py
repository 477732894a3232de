"""Losses of CTR models: smoothed cross-entropy, pairwise loss, in-batch negatives."""

import dataclasses

import torch
from torch import nn

from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.training.config import TrainingConfig

PAIRS_PER_ROW = 16
"""Other rows of the batch that the pairwise loss compares each row with."""


def ctr_loss(module: nn.Module, batch: Batch, config: TrainingConfig) -> torch.Tensor:
    """Return the configured loss of a model on a labelled batch, a scalar in nats.

    It is (1 - w) * cross-entropy + w * pairwise loss, where w is `config.pairwise_weight`.
    """
    if config.in_batch_negatives > 0:
        batch = in_batch_negatives(batch, config.in_batch_negatives)
    assert batch.label_B is not None
    logits_B, weight = module(batch).float(), config.pairwise_weight
    pointwise = smoothed_binary_cross_entropy(logits_B, batch.label_B, config.label_smoothing)
    if weight == 0:
        return pointwise
    return (1 - weight) * pointwise + weight * pairwise_loss(logits_B, batch.label_B)


def smoothed_binary_cross_entropy(
    logits_B: torch.Tensor, label_B: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Return the mean binary cross-entropy against the targets `y * (1 - s) + s / 2`.

    `logits_B` and `label_B` are `(B,) float32`, labels 0 or 1; the result is a scalar in nats.
    """
    target_B = label_B * (1 - label_smoothing) + label_smoothing / 2
    return nn.functional.binary_cross_entropy_with_logits(logits_B, target_B)


def pairwise_loss(logits_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
    """Return the mean of `log(1 + exp(-(s_p - s_n)))` over pairs of a clicked row p and another n.

    This is the pairwise logistic loss of RankNet (Burges et al. 2005) and BPR (arXiv 1205.2618),
    with logits as scores. Each row is compared with the 16 rows that precede it in the batch,
    cyclically; pairs with equal labels are left out. The pairs are random, because batches are
    shuffled. Takes `(B,) float32`; returns a scalar in nats, zero if all labels are equal.
    """
    total = logits_B.new_zeros(())
    n_pairs = logits_B.new_zeros(())
    for distance in range(1, min(PAIRS_PER_ROW, len(logits_B) - 1) + 1):
        order_B = label_B - label_B.roll(distance)  # 1, -1, or 0 if the labels are equal
        losses_B = nn.functional.softplus(-order_B * (logits_B - logits_B.roll(distance)))
        total = total + (losses_B * order_B.abs()).sum()
        n_pairs = n_pairs + order_B.abs().sum()
    return total / n_pairs.clamp_min(1)


def in_batch_negatives(batch: Batch, share: float) -> Batch:
    """Return the batch with new targets in `share` of its rows without a click.

    Each of these rows takes the target, with its levels, of a random row of the batch, clicked or
    not, and keeps its user and history. This suits negatives that were drawn at random from the
    catalogue: these items were never shown, so another draw is just as valid. New draws in every
    step keep the model from memorising the few given ones. Since clicked targets are drawn too, it
    cannot memorise how often each item was clicked either. Rows are chosen by torch's random
    state, without waiting for the device.
    """
    assert batch.label_B is not None
    draw_2B = torch.rand(2, len(batch), device=batch.label_B.device)
    own_B = torch.arange(len(batch), device=batch.label_B.device)
    is_replaced_B = (batch.label_B == 0) & (draw_2B[0] < share)
    source_B = torch.where(is_replaced_B, draw_2B[1].argsort(), own_B)
    target = ("item_id_B", "likes_level_B", "views_level_B")
    return dataclasses.replace(batch, **{name: getattr(batch, name)[source_B] for name in target})
