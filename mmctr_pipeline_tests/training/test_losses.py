"""The losses against their formulas; in-batch negatives: what is replaced, and what stays."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.training.batches import BatchSource, item_features
from mmctr_pipeline.training.losses import (
    PAIRS_PER_ROW,
    in_batch_negatives,
    pairwise_loss,
    smoothed_binary_cross_entropy,
)
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample


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


CPU = torch.device("cpu")
OF_THE_TARGET = ("item_id_B", "likes_level_B", "views_level_B")


@pytest.fixture(name="batch", scope="module")
def batch_of_a_small_sample() -> Batch:
    dataset, vectors = small_sample(n_train=1000)
    n_rows = len(dataset.train)
    # Levels that tell which row they came with.
    levels = np.arange(n_rows)
    train = dataclasses.replace(
        dataset.train,
        likes_level=(levels % 100).astype(np.int8),
        views_level=(levels // 100).astype(np.int8),
    )
    items = item_features(dataset.items, vectors, SMALL_MODEL)
    return next(iter(BatchSource(train, dataset.histories, items, CPU).in_order(n_rows)))


def targets(batch: Batch) -> list[tuple[int, ...]]:
    columns = [getattr(batch, name).tolist() for name in OF_THE_TARGET]
    return list(zip(*columns, strict=True))


def drawn(batch: Batch, share: float, seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    return in_batch_negatives(batch, share)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_rows_without_a_click_take_targets_of_the_batch_with_their_levels(
    batch: Batch, share: float
) -> None:
    before, after = targets(batch), targets(drawn(batch, share))
    assert batch.label_B is not None
    is_negative_B = (batch.label_B == 0).tolist()
    pairs = list(zip(before, after, is_negative_B, strict=True))
    assert all(was == now for was, now, is_negative in pairs if not is_negative)
    replacing = [now for was, now, _ in pairs if was != now]
    assert len(replacing) / sum(is_negative_B) == pytest.approx(share, abs=0.06)
    assert len(set(replacing)) == len(replacing)  # no row lends its target twice
    clicked = {was for was, _, is_negative in pairs if not is_negative}
    share_clicked = sum(target in clicked for target in replacing) / len(replacing)
    assert share_clicked == pytest.approx(len(clicked) / len(before), abs=0.08)
    assert set(replacing) <= set(before)


def test_users_histories_and_labels_stay(batch: Batch) -> None:
    after = drawn(batch, 1.0)
    for field in dataclasses.fields(Batch):
        if field.name not in OF_THE_TARGET:
            assert getattr(after, field.name) is getattr(batch, field.name)


def test_each_step_draws_anew_from_the_random_state(batch: Batch) -> None:
    assert targets(drawn(batch, 1.0, seed=1)) == targets(drawn(batch, 1.0, seed=1))
    assert targets(drawn(batch, 1.0, seed=1)) != targets(drawn(batch, 1.0, seed=2))


def test_a_batch_of_clicks_stays_as_it_is(batch: Batch) -> None:
    assert batch.label_B is not None
    clicks = dataclasses.replace(batch, label_B=torch.ones_like(batch.label_B))
    assert targets(drawn(clicks, 1.0)) == targets(batch)
