"""The loss against recipe A's formula."""

import math

import pytest
import torch

from mmctr_pipeline.training.loss import (
    PAIRS_PER_ROW,
    pairwise_loss,
    smoothed_binary_cross_entropy,
)


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


def plain_pairwise_loss(logits: list[float], labels: list[float]) -> float:
    n_rows = len(logits)
    terms = []
    for first in range(n_rows):
        for distance in range(1, min(PAIRS_PER_ROW, n_rows - 1) + 1):
            second = (first - distance) % n_rows
            if labels[first] == labels[second]:
                continue
            clicked, other = (first, second) if labels[first] else (second, first)
            terms.append(math.log1p(math.exp(logits[other] - logits[clicked])))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("n_rows", [2, 9, 60])
def test_pairwise_loss_is_the_mean_over_pairs_of_different_labels(n_rows: int) -> None:
    generator = torch.Generator().manual_seed(n_rows)
    logits_B = torch.randn(n_rows, generator=generator)
    label_B = (torch.rand(n_rows, generator=generator) < 0.4).float()
    label_B[:2] = torch.tensor([1.0, 0.0])
    expected = plain_pairwise_loss(logits_B.tolist(), label_B.tolist())
    assert pairwise_loss(logits_B, label_B).item() == pytest.approx(expected, rel=1e-5)


def test_pairwise_loss_asks_for_order_alone() -> None:
    logits_B = torch.randn(30)
    label_B = (torch.arange(30) % 3 == 0).float()
    moved = pairwise_loss(logits_B + 5, label_B)
    assert moved.item() == pytest.approx(pairwise_loss(logits_B, label_B).item(), rel=1e-5)
    assert pairwise_loss(10 * label_B, label_B) < pairwise_loss(label_B, label_B)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_pairwise_loss_of_one_label_is_zero_with_gradient_zero(label: float) -> None:
    logits_B = torch.randn(5, requires_grad=True)
    loss = pairwise_loss(logits_B, torch.full((5,), label))
    loss.backward()
    assert loss.item() == 0
    assert logits_B.grad is not None
    assert not logits_B.grad.any()
