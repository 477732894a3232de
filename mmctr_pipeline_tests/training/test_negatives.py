"""In-batch negatives: what is replaced by what, and what stays."""

import dataclasses

import numpy as np
import pytest
import torch

from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.training.batches import BatchSource, item_features
from mmctr_pipeline.training.negatives import in_batch_negatives
from mmctr_pipeline_tests.training.small_sample import small_sample

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
    items = item_features(dataset.items, vectors)
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
