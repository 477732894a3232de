"""Losses of CTR models: smoothed cross-entropy, pairwise and joint loss, in-batch negatives."""

import dataclasses
import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.data.click_rates import ITEM_SMOOTHING
from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.training.config import TrainingConfig

logger = logging.getLogger(__name__)

PAIRS_PER_ROW = 16
"""Number of other rows of the batch that the pairwise loss compares each row with."""


def loss_on(
    train: Split, config: TrainingConfig, n_items: int, device: torch.device
) -> Callable[[nn.Module, Batch], torch.Tensor]:
    """Return `ctr_loss` for batches of `train`, as a function of model and batch.

    Parameters
    ----------
    train
        Labelled train rows.
    config
        Weights of the losses and the share of in-batch negatives.
    n_items
        Rows of the item table.
    device
        Where to train.
    """
    if config.redrawn_share:
        logger.info(
            f"each step gives {config.redrawn_share:.0%} of the rows without a click the target of "
            "another row (training.in_batch_negatives)"
        )
    redrawn_I = redrawn_logits(train, config.redrawn_share, n_items).to(device)
    return lambda module, batch: ctr_loss(module, batch, config, redrawn_I)


def ctr_loss(
    module: nn.Module,
    batch: Batch,
    config: TrainingConfig,
    redrawn_I: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the configured loss of a model on a labelled batch, a scalar in nats.

    It is (1 - w - v) * cross-entropy + w * pairwise loss + v * contrast of the joint objective,
    where w is `config.pairwise_weight` and v is `config.joint_weight`.

    Parameters
    ----------
    module
        Model to train.
    batch
        Labelled rows.
    config
        Weights of the losses and the share of in-batch negatives.
    redrawn_I
        `redrawn_logits` of each item, `(I,) float32`; needed for in-batch negatives.
    """
    if config.redrawn_share > 0:
        batch = in_batch_negatives(batch, config.redrawn_share)
    assert batch.label_B is not None
    logits_B = module(batch).float()
    if config.redrawn_share > 0:
        assert redrawn_I is not None
        logits_B = logits_B - redrawn_I[batch.item_id_B]
    pairwise, joint = config.pairwise_weight, config.joint_weight
    loss = smoothed_binary_cross_entropy(logits_B, batch.label_B, config.label_smoothing)
    if pairwise or joint:
        loss = (1 - pairwise - joint) * loss
    if pairwise:
        loss = loss + pairwise * pairwise_loss(logits_B, batch.label_B)
    if joint:
        loss = loss + joint * contrastive_loss(logits_B, batch.label_B)
    return loss


def smoothed_binary_cross_entropy(
    logits_B: torch.Tensor, label_B: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Return the mean binary cross-entropy against the targets `y * (1 - s) + s / 2`.

    `logits_B` and `label_B` are `(B,) float32`, labels 0 or 1; the result is a scalar in nats.
    """
    target_B = label_B * (1 - label_smoothing) + label_smoothing / 2
    return nn.functional.binary_cross_entropy_with_logits(logits_B, target_B)


def pairwise_loss(logits_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
    """Return the mean of `log(1 + exp(-(s_p - s_n)))` over pairs of rows.

    In a pair, p is a clicked row and n is a row without a click. This is the pairwise logistic loss
    of RankNet (Burges et al. 2005) and BPR (arXiv 1205.2618), with logits as scores. Each row is
    compared with the 16 rows that precede it in the batch, cyclically; pairs with equal labels are
    left out. The pairs are random, because batches are shuffled. Takes `(B,) float32`; returns a
    scalar in nats, zero if all labels are equal.
    """
    total = logits_B.new_zeros(())
    n_pairs = logits_B.new_zeros(())
    for distance in range(1, min(PAIRS_PER_ROW, len(logits_B) - 1) + 1):
        order_B = label_B - label_B.roll(distance)  # 1, -1, or 0 if the labels are equal
        losses_B = nn.functional.softplus(-order_B * (logits_B - logits_B.roll(distance)))
        total = total + (losses_B * order_B.abs()).sum()
        n_pairs = n_pairs + order_B.abs().sum()
    return total / n_pairs.clamp_min(1)


def contrastive_loss(logits_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
    """Return the listwise part of JRC (arXiv 2208.06164), which contrasts rows of equal label.

    The loss of a row with label y is `-log softmax(f_y)` at this row, with the softmax over all B
    rows of the batch. Returned is the mean over rows minus log(B), so that equal logits give zero.
    The paper's models have two logits f_1 and f_0, whose difference gives the probability, and
    contrast the rows of a session. Ours have one logit s, so f_1 = s / 2 and f_0 = -s / 2, and
    shuffled batches hold no sessions. Takes `(B,) float32`, returns a scalar.
    """
    half_B = logits_B / 2
    clicked_B = half_B.log_softmax(0)
    other_B = (-half_B).log_softmax(0)
    return -torch.where(label_B == 1, clicked_B, other_B).mean() - math.log(len(label_B))


def redrawn_logits(train: Split, share: float, n_items: int) -> torch.Tensor:
    """Return by how much in-batch negatives lower the logit of each item, `(I,) float32`.

    Item i is the target of a share n_i of the train rows without a click, and of a share q_i of all
    train rows. New targets are drawn from all train rows. If a share s of the rows without a click
    gets new targets, item i occurs there `s * q_i / n_i + 1 - s` times as often. The odds of a
    click on i fall by this factor, whose logarithm is returned. It is subtracted from the logits in
    training and not in scoring, so that scores have the odds of the given rows. The estimate of
    n_i / q_i is pulled towards 1, as if by 5 more rows.

    Parameters
    ----------
    train
        Labelled train rows.
    share
        `in_batch_negatives`.
    n_items
        Rows of the item table.
    """
    assert train.label is not None
    rows_I = np.bincount(train.item_id, minlength=n_items)
    negatives_I = np.bincount(train.item_id, train.label == 0, minlength=n_items)
    expected_I = rows_I * (negatives_I.sum() / max(rows_I.sum(), 1))
    ratio_I = (negatives_I + ITEM_SMOOTHING) / (expected_I + ITEM_SMOOTHING)
    return torch.from_numpy(np.log(share / ratio_I + 1 - share).astype(np.float32))


def in_batch_negatives(batch: Batch, share: float) -> Batch:
    """Return the batch with new targets in `share` of its rows without a click.

    Each of these rows keeps its user and history, and takes the target and the target's levels of a
    random row of the batch, clicked or not. This suits negatives that were drawn at random from the
    catalogue: these items were never shown, so another draw is just as valid. New draws in every
    step keep the model from memorising the few given draws. Since clicked targets are drawn too,
    the model cannot memorise either how often each item was clicked. Rows are chosen by torch's
    random state, without waiting for the device.
    """
    assert batch.label_B is not None
    draw_2B = torch.rand(2, len(batch), device=batch.label_B.device)
    own_B = torch.arange(len(batch), device=batch.label_B.device)
    is_replaced_B = (batch.label_B == 0) & (draw_2B[0] < share)
    source_B = torch.where(is_replaced_B, draw_2B[1].argsort(), own_B)
    target = ("item_id_B", "likes_level_B", "views_level_B")
    return dataclasses.replace(batch, **{name: getattr(batch, name)[source_B] for name in target})
