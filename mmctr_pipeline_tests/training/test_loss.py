"""The loss against recipe A's formula."""

import math

import pytest
import torch

from mmctr_pipeline.training.loss import smoothed_binary_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_loss_is_cross_entropy_against_smoothed_targets(smoothing: float) -> None:
    logits, labels = [2.0, -1.0, 0.3], [1.0, 0.0, 0.0]
    terms = []
    for logit, label in zip(logits, labels, strict=True):
        probability = 1 / (1 + math.exp(-logit))
        target = label * (1 - smoothing) + smoothing / 2
        terms.append(-target * math.log(probability) - (1 - target) * math.log(1 - probability))
    loss = smoothed_binary_cross_entropy(torch.tensor(logits), torch.tensor(labels), smoothing)
    assert loss.item() == pytest.approx(sum(terms) / 3, rel=1e-6)


def test_recipe_a_targets_are_0_025_and_0_975() -> None:
    logits_B = torch.zeros(1, requires_grad=True)
    smoothed_binary_cross_entropy(logits_B, torch.ones(1), 0.05).backward()
    assert logits_B.grad.item() == pytest.approx(0.5 - 0.975)


def test_loss_is_finite_for_extreme_logits() -> None:
    loss = smoothed_binary_cross_entropy(torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0]), 0.05)
    assert math.isfinite(loss.item())
