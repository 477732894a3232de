"""Factors equal a plain computation by row, and learn clicks that only their product explains."""

import dataclasses

import numpy as np
import torch

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.models.config import DinConfig, FeatureConfig
from mmctr_pipeline.models.layers.factors import Factors
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import train_ctr
from mmctr_pipeline_tests.training.small_sample import small_sample

DIM = 3
TAGS = torch.tensor([[1, 2, 0], [0, 0, 0], [3, 0, 0], [2, 2, 1]])


def random_factors() -> Factors:
    torch.manual_seed(1)
    factors = Factors(n_users=6, n_items=8, n_tags=4, dim=DIM)
    with torch.no_grad():
        for parameter in factors.parameters():
            parameter.normal_()
        for table in (factors.user, factors.item, factors.tags):
            table.weight[0] = 0
    return factors


def test_the_logit_is_two_biases_plus_the_product_of_the_factors() -> None:
    factors = random_factors()
    user_B, item_B = torch.tensor([1, 5, 0, 2]), torch.tensor([7, 0, 3, 1])
    expected = []
    for row in range(4):
        user = factors.user.weight[user_B[row]]
        tags = [factors.tags.weight[tag] for tag in TAGS[row].tolist() if tag]
        item = factors.item.weight[item_B[row]]
        if tags:
            item = item + sum(tags) / len(tags)
        user, item = user * factors.scale_D, item * factors.scale_D
        expected.append(user[0] + item[0] + sum(user[k] * item[k] for k in range(1, 1 + DIM)))
    logits = factors(user_B, item_B, TAGS)
    torch.testing.assert_close(logits, torch.stack(expected))


def test_an_unknown_user_has_the_bias_of_the_item_alone() -> None:
    factors = random_factors()
    item_B = torch.tensor([1, 2, 3, 4])
    no_tags_BK = torch.zeros(4, 3, dtype=torch.int64)
    logits = factors(torch.zeros(4, dtype=torch.int64), item_B, no_tags_BK)
    torch.testing.assert_close(logits, factors.item.weight[item_B, 0] * factors.scale_D[0])


def test_an_item_that_is_no_train_target_is_read_as_a_cold_item() -> None:
    factors = random_factors()
    trained = factors.item.weight.detach().clone()
    factors.zero_untrained(np.array([1, 5, 5]))
    assert torch.equal(factors.item.weight[[0, 1, 5]], trained[[0, 1, 5]])
    user_B, other_B = torch.tensor([1, 5, 0, 2]), torch.tensor([2, 3, 7, 6])
    assert torch.equal(
        factors(user_B, other_B, TAGS), factors(user_B, torch.zeros_like(other_B), TAGS)
    )


def test_factors_learn_which_users_click_on_which_items() -> None:
    # A click is likely if user and item have the same sign; neither tells anything by itself.
    dataset, vectors = small_sample(n_train=3000, n_users=80, n_items=60)
    sign = np.random.default_rng(4).choice([-1, 1], 400)
    train, valid = (
        drawn_rows(dataset.train.take(np.arange(n_rows)), sign, seed)
        for seed, n_rows in ((1, 3000), (2, 1000))
    )
    config = DinConfig(
        features=FeatureConfig(user="factors", embedding_dim=8, level_embedding_dim=4),
        hidden_dims=(16,),
        attention_hidden_dims=(8,),
    )
    training = TrainingConfig(
        max_epochs=6, batch_size=128, learning_rate=5e-3, embedding_weight_decay=1.0
    )
    dataset = dataclasses.replace(dataset, train=train, valid=valid)
    trained = train_ctr(dataset, vectors, config, training, torch.device("cpu"))
    assert trained.metrics["valid_auc"] > 0.7


def drawn_rows(rows: Split, sign: np.ndarray, seed: int) -> Split:
    """Return `rows` with drawn users and items, an empty history, and labels that follow `sign`."""
    generator = np.random.default_rng(seed)
    user_id, item_id = generator.integers(1, 61, (2, len(rows)), dtype=np.int32)
    probability = np.where(sign[user_id] == sign[300 + item_id], 0.9, 0.1)
    return dataclasses.replace(
        rows,
        user_id=user_id,
        item_id=item_id,
        history=np.zeros(len(rows), np.int32),
        label=(generator.random(len(rows)) < probability).astype(np.int8),
    )
