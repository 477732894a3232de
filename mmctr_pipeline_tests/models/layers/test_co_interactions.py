"""Similarity by shared users has correct counts, which never include the user of the row."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.co_interactions import CoInteractions, count_co_interactions
from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.layers.co_interactions import CoInteractionSimilarity
from mmctr_pipeline_tests.data.rows_by_hand import N_ITEMS, items_by_user, train_rows


def random_rows(seed: int = 0) -> tuple[Split, Ragged]:
    generator = np.random.default_rng(seed)
    lists = [generator.integers(1, N_ITEMS, generator.integers(1, 5)).tolist() for _ in range(30)]
    rows = [
        (
            int(generator.integers(1, 20)),
            int(generator.integers(1, N_ITEMS)),
            int(generator.integers(0, 2)),
            int(generator.integers(0, 30)),
        )
        for _ in range(60)
    ]
    return train_rows(rows, lists)


def fitted(counts: CoInteractions) -> CoInteractionSimilarity:
    layer = CoInteractionSimilarity(N_ITEMS)
    layer.fit(counts)
    return layer


def all_triples(n_users: int = 22) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return every user with every pair of items, including padding and ids beyond the tables."""
    ids = torch.arange(N_ITEMS + 2)
    user, target, item = torch.meshgrid(torch.arange(n_users), ids, ids, indexing="ij")
    return user.flatten(), target.flatten(), item.flatten()


def test_similarity_counts_all_users_but_that_of_the_row() -> None:
    train, histories = random_rows()
    items = items_by_user(train, histories)
    cosine_T, log_shared_T = fitted(count_co_interactions(train, histories, N_ITEMS))(
        *all_triples()
    )
    assert (cosine_T > 0).sum() > 100
    for position, (user, a, b) in enumerate(zip(*(x.tolist() for x in all_triples()), strict=True)):
        with_a, with_b = (
            {u for u, items_of_u in items.items() if u != user and item in items_of_u}
            for item in (a, b)
        )
        shared = len(with_a & with_b) if a != b else 0
        expected = shared / math.sqrt(max(len(with_a), 1) * max(len(with_b), 1))
        assert cosine_T[position].item() == pytest.approx(expected, abs=1e-6), (user, a, b)
        assert log_shared_T[position].item() == pytest.approx(math.log1p(shared), abs=1e-6)


def similarities_of_train_rows(
    layer: CoInteractionSimilarity, train: Split, histories: Ragged
) -> torch.Tensor:
    user, target, item = [], [], []
    for row in range(len(train)):
        for watched in histories[train.history[row]].tolist():
            user.append(int(train.user_id[row]))
            target.append(int(train.item_id[row]))
            item.append(watched)
    return torch.stack(layer(*(torch.tensor(x) for x in (user, target, item))))


def largest_leak(layer: CoInteractionSimilarity, train: Split, histories: Ragged) -> float:
    """Return the largest change of a row's features if its own label is flipped."""
    assert train.label is not None
    largest = 0.0
    for row in range(len(train)):
        flipped = train.label.copy()
        flipped[row] = 1 - flipped[row]
        changed = dataclasses.replace(train, label=flipped)
        refitted = fitted(count_co_interactions(changed, histories, N_ITEMS))
        one_row = train.take(np.array([row]))
        before = similarities_of_train_rows(layer, one_row, histories)
        after = similarities_of_train_rows(refitted, one_row, histories)
        largest = max(largest, float((before - after).abs().max()))
    return largest


def test_the_label_of_a_row_does_not_change_its_own_features() -> None:
    train, histories = random_rows()
    layer = fitted(count_co_interactions(train, histories, N_ITEMS))
    assert largest_leak(layer, train, histories) == 0


def test_a_planted_leak_is_caught() -> None:
    train, histories = random_rows()
    layer = fitted(count_co_interactions(train, histories, N_ITEMS))
    # Without the users' interactions nothing is subtracted, and the row's own user counts.
    layer.interaction_E = torch.zeros(0, dtype=torch.int64)
    assert largest_leak(layer, train, histories) > 0.1


def test_a_saved_layer_loads_with_any_number_of_pairs() -> None:
    layer = fitted(count_co_interactions(*random_rows(), N_ITEMS))
    for assign in (True, False):
        fresh = CoInteractionSimilarity(N_ITEMS)
        fresh.load_state_dict(layer.state_dict(), assign=assign)
        for mine, theirs in zip(fresh(*all_triples()), layer(*all_triples()), strict=True):
            assert torch.equal(mine, theirs)


def test_all_similarities_are_zero_before_fitting() -> None:
    cosine_T, log_shared_T = CoInteractionSimilarity(N_ITEMS)(*all_triples())
    assert not cosine_T.any()
    assert not log_shared_T.any()


def test_counts_for_another_number_of_items_are_refused() -> None:
    counts = count_co_interactions(*random_rows(), N_ITEMS)
    with pytest.raises(ValueError, match="counts of 12 items for a model of 13"):
        CoInteractionSimilarity(13).fit(counts)
