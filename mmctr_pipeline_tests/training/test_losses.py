"""Losses follow their formulas; in-batch negatives change targets but not the best logits."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from mmctr_pipeline.data.click_rates import ITEM_SMOOTHING
from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline.training.batch_source import BatchSource, item_features
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.losses import (
    PAIRS_PER_ROW,
    contrastive_loss,
    ctr_loss,
    in_batch_negatives,
    pairwise_loss,
    redrawn_logits,
    smoothed_binary_cross_entropy,
)
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample

TARGET_COLUMNS = ("item_id_B", "likes_level_B", "views_level_B")


def plain_cross_entropy(logits: list[float], labels: list[float], smoothing: float) -> float:
    terms = []
    for logit, label in zip(logits, labels, strict=True):
        probability = 1 / (1 + math.exp(-logit))
        target = label * (1 - smoothing) + smoothing / 2
        terms.append(-target * math.log(probability) - (1 - target) * math.log(1 - probability))
    return sum(terms) / len(terms)


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


def plain_contrast(logits: list[float], labels: list[float]) -> float:
    """Return the listwise term of JRC minus log(B), the logarithm of the number of rows.

    A row with the logit s has the score s / 2 for a click and -s / 2 for no click.
    """
    terms = []
    for row, label in enumerate(labels):
        scores = [(logit if label == 1 else -logit) / 2 for logit in logits]
        terms.append(-math.log(len(labels) * math.exp(scores[row]) / sum(map(math.exp, scores))))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_loss_is_cross_entropy_against_smoothed_targets(smoothing: float) -> None:
    logits, labels = [2.0, -1.0, 0.3], [1.0, 0.0, 0.0]
    loss = smoothed_binary_cross_entropy(torch.tensor(logits), torch.tensor(labels), smoothing)
    assert loss.item() == pytest.approx(plain_cross_entropy(logits, labels, smoothing), rel=1e-6)


def test_recipe_a_smooths_the_target_of_a_click_to_0_975() -> None:
    logits_B = torch.zeros(1, requires_grad=True)
    smoothed_binary_cross_entropy(logits_B, torch.ones(1), 0.05).backward()
    assert logits_B.grad is not None
    assert logits_B.grad.item() == pytest.approx(0.5 - 0.975)


def test_loss_is_finite_for_extreme_logits() -> None:
    loss = smoothed_binary_cross_entropy(torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0]), 0.05)
    assert math.isfinite(loss.item())


@pytest.mark.parametrize("n_rows", [2, 9, 60])
def test_pairwise_loss_is_the_mean_over_pairs_with_different_labels(n_rows: int) -> None:
    generator = torch.Generator().manual_seed(n_rows)
    logits_B = torch.randn(n_rows, generator=generator)
    label_B = (torch.rand(n_rows, generator=generator) < 0.4).float()
    label_B[:2] = torch.tensor([1.0, 0.0])
    expected = plain_pairwise_loss(logits_B.tolist(), label_B.tolist())
    assert pairwise_loss(logits_B, label_B).item() == pytest.approx(expected, rel=1e-5)


def test_pairwise_loss_ignores_a_shift_and_falls_as_clicks_score_higher() -> None:
    logits_B = torch.randn(30)
    label_B = (torch.arange(30) % 3 == 0).float()
    shifted = pairwise_loss(logits_B + 5, label_B)
    assert shifted.item() == pytest.approx(pairwise_loss(logits_B, label_B).item(), rel=1e-5)
    assert pairwise_loss(10 * label_B, label_B) < pairwise_loss(label_B, label_B)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_pairwise_loss_of_equal_labels_and_its_gradient_are_zero(label: float) -> None:
    logits_B = torch.randn(5, requires_grad=True)
    loss = pairwise_loss(logits_B, torch.full((5,), label))
    loss.backward()
    assert loss.item() == 0
    assert logits_B.grad is not None
    assert not logits_B.grad.any()


def test_contrastive_loss_follows_its_formula_and_ignores_a_shift() -> None:
    logits_B = torch.randn(20, generator=torch.Generator().manual_seed(3))
    label_B = (torch.arange(20) % 3 == 0).float()
    expected = plain_contrast(logits_B.tolist(), label_B.tolist())
    assert contrastive_loss(logits_B, label_B).item() == pytest.approx(expected, rel=1e-4)
    shifted = contrastive_loss(logits_B + 4, label_B).item()
    assert shifted == pytest.approx(expected, rel=1e-4)  # a shift does not matter
    assert contrastive_loss(torch.full((20,), 3.0), label_B).item() == pytest.approx(0, abs=1e-5)


class ItemLogits(nn.Module):
    """Gives each item a logit that is linear in its id."""

    def forward(self, batch: Batch) -> torch.Tensor:
        return batch.item_id_B / 20 - 1.5


@pytest.mark.parametrize(("weight", "joint"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.3), (0.6, 0.4)])
def test_ctr_loss_weighs_cross_entropy_pairwise_loss_and_contrast(
    batch: Batch, weight: float, joint: float
) -> None:
    assert batch.label_B is not None
    logits, labels = ItemLogits()(batch).tolist(), batch.label_B.tolist()
    pointwise = plain_cross_entropy(logits, labels, smoothing=0.2)
    pairwise = plain_pairwise_loss(logits, labels)
    assert abs(pointwise - pairwise) > 0.02
    config = TrainingConfig(label_smoothing=0.2, pairwise_weight=weight, joint_weight=joint)
    loss = ctr_loss(ItemLogits(), batch, config).item()
    expected = (1 - weight - joint) * pointwise + weight * pairwise
    if joint:
        expected += joint * plain_contrast(logits, labels)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_loss_weights_that_sum_to_more_than_one_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"joint_weight.*at most 1"):
        TrainingConfig(pairwise_weight=0.6, joint_weight=0.5)


@pytest.fixture(name="batch", scope="module")
def thousand_rows() -> Batch:
    """Return 1,000 rows whose levels identify the row."""
    dataset, vectors = small_sample(n_train=1000)
    row_N = np.arange(len(dataset.train))
    train = dataclasses.replace(
        dataset.train,
        likes_level=(row_N % 100).astype(np.int8),
        views_level=(row_N // 100).astype(np.int8),
    )
    items = item_features(dataset.items, vectors, SMALL_MODEL)
    source = BatchSource(train, dataset.histories, items, torch.device("cpu"))
    return next(source.in_order(len(train)))


def targets(batch: Batch) -> list[tuple[int, ...]]:
    columns = [getattr(batch, name).tolist() for name in TARGET_COLUMNS]
    return list(zip(*columns, strict=True))


def with_new_targets(batch: Batch, share: float, seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    return in_batch_negatives(batch, share)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_rows_without_a_click_get_targets_of_the_batch_with_their_levels(
    batch: Batch, share: float
) -> None:
    before, after = targets(batch), targets(with_new_targets(batch, share))
    assert batch.label_B is not None
    is_negative_B = (batch.label_B == 0).tolist()
    rows = list(zip(before, after, is_negative_B, strict=True))
    assert all(old == new for old, new, is_negative in rows if not is_negative)
    replacing = [new for old, new, _ in rows if old != new]
    assert len(replacing) / sum(is_negative_B) == pytest.approx(share, abs=0.06)
    assert len(set(replacing)) == len(replacing)  # each target replaces at most one other
    clicked = {old for old, _, is_negative in rows if not is_negative}
    share_clicked = sum(target in clicked for target in replacing) / len(replacing)
    assert share_clicked == pytest.approx(len(clicked) / len(before), abs=0.08)
    assert set(replacing) <= set(before)


def test_in_batch_negatives_keep_users_histories_and_labels(batch: Batch) -> None:
    after = with_new_targets(batch, 1.0)
    for field in dataclasses.fields(Batch):
        if field.name not in TARGET_COLUMNS:
            assert getattr(after, field.name) is getattr(batch, field.name)


def test_new_targets_follow_the_random_state(batch: Batch) -> None:
    first, again, other = (targets(with_new_targets(batch, 1.0, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_batch_of_clicks_keeps_its_targets(batch: Batch) -> None:
    assert batch.label_B is not None
    clicks = dataclasses.replace(batch, label_B=torch.ones_like(batch.label_B))
    assert targets(with_new_targets(clicks, 1.0)) == targets(batch)


def uneven_rows(n_rows: int = 200_000) -> tuple[Split, np.ndarray]:
    """Return rows whose clicks depend on the item, and the true logit of each item `(I,)`.

    Popular items are clicked more, so their share of the rows without a click is lower than their
    share of all rows.
    """
    generator = np.random.default_rng(0)
    probability_I = np.linspace(0.05, 0.95, 11)
    item_id = generator.choice(11, n_rows, p=np.arange(1, 12) / 66)
    label = (generator.random(n_rows) < probability_I[item_id]).astype(np.int8)
    empty = np.zeros(n_rows, np.int32)
    split = Split(empty, item_id.astype(np.int32), empty, empty, empty, label)
    return split, np.log(probability_I / (1 - probability_I))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_with_in_batch_negatives_the_best_logits_are_those_of_the_given_rows(share: float) -> None:
    train, true_I = uneven_rows()
    assert train.label is not None
    batch = Batch(
        user_id_B=torch.from_numpy(train.user_id).long(),
        item_id_B=torch.from_numpy(train.item_id).long(),
        likes_level_B=torch.zeros(len(train)),
        views_level_B=torch.zeros(len(train)),
        history_T=torch.zeros(0),
        history_offsets=torch.zeros(len(train) + 1),
        items=None,  # type: ignore[arg-type]
        label_B=torch.from_numpy(train.label).float(),
    )
    after = with_new_targets(batch, share) if share else batch
    assert after.label_B is not None
    clicks_I = torch.bincount(after.item_id_B, after.label_B, minlength=11)
    rows_I = torch.bincount(after.item_id_B, minlength=11)
    best_I = (clicks_I / (rows_I - clicks_I)).log() + redrawn_logits(train, share, 11)
    np.testing.assert_allclose(best_I.numpy(), true_I, atol=0.1)
    if share == 1:
        assert np.abs(best_I.numpy() - redrawn_logits(train, share, 11).numpy() - true_I).max() > 1


def test_redrawn_logits_follow_from_smoothed_counts() -> None:
    item_id = np.array([1, 1, 1, 1, 2, 2, 3], np.int32)
    label = np.array([1, 1, 1, 0, 0, 0, 1], np.int8)
    empty = np.zeros(7, np.int32)
    found_I = redrawn_logits(Split(empty, item_id, empty, empty, empty, label), 0.8, 5).tolist()
    expected = []
    for item in range(5):
        n_rows = sum(item_id == item)
        without_click = sum((item_id == item) & (label == 0))
        ratio = (without_click + ITEM_SMOOTHING) / (n_rows * 3 / 7 + ITEM_SMOOTHING)
        expected.append(math.log(0.8 / ratio + 0.2))
    assert found_I == pytest.approx(expected, abs=1e-6)
    assert found_I[0] == found_I[4] == 0


def test_ctr_loss_subtracts_the_redrawn_logits_of_in_batch_negatives(batch: Batch) -> None:
    config = TrainingConfig(label_smoothing=0.0, in_batch_negatives=1.0)
    redrawn_I = torch.linspace(-1, 1, 61)
    torch.manual_seed(4)
    loss = ctr_loss(ItemLogits(), batch, config, redrawn_I).item()
    after = with_new_targets(batch, 1.0, seed=4)
    assert after.label_B is not None
    logits_B = ItemLogits()(after) - redrawn_I[after.item_id_B]
    expected = plain_cross_entropy(logits_B.tolist(), after.label_B.tolist(), 0.0)
    assert loss == pytest.approx(expected, rel=1e-5)
