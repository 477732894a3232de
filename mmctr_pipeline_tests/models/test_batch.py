"""Batches are split, copied and cloned without mixing up rows."""

import dataclasses

import pytest
import torch

from mmctr_pipeline.models.batch import Batch, ItemFeatures

LENGTHS = [2, 0, 3, 1, 0, 4, 2]
SPARE = 5
"""Number of positions of `history_T` after the last history."""


def make_items() -> ItemFeatures:
    return ItemFeatures(
        torch.ones(9, 2),
        torch.ones(9, dtype=torch.bool),
        torch.zeros(9).long(),
        torch.ones(9).long(),
        torch.zeros(9, 1).long(),
    )


def make_batch(first: int = 0, labels: bool = True) -> Batch:
    """Return seven rows and spare positions; another `first` gives other ids and levels."""
    numbers_B = torch.arange(first, first + len(LENGTHS))
    history_T = torch.arange(first, first + sum(LENGTHS)) + 1
    return Batch(
        user_id_B=numbers_B + 100,
        item_id_B=numbers_B + 200,
        likes_level_B=numbers_B % 11,
        views_level_B=(numbers_B + 3) % 11,
        history_T=torch.nn.functional.pad(history_T, (0, SPARE)),
        history_offsets=torch.tensor([0, *LENGTHS]).cumsum(0),
        items=make_items(),
        label_B=(numbers_B % 2).float() if labels else None,
    )


def rows(batch: Batch) -> list[tuple]:
    """Return each row as a tuple of its columns and the list of its history."""
    columns = [batch.user_id_B, batch.item_id_B, batch.likes_level_B, batch.views_level_B]
    columns += [] if batch.label_B is None else [batch.label_B]
    starts = batch.history_offsets.tolist()
    return [
        (*(c[row].item() for c in columns), batch.history_T[starts[row] : starts[row + 1]].tolist())
        for row in range(len(batch))
    ]


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize(
    ("n_parts", "sizes"), [(1, [7]), (2, [3, 4]), (3, [2, 2, 3]), (7, [1] * 7)]
)
def test_the_parts_of_a_batch_hold_all_rows_in_order(
    n_parts: int, sizes: list[int], labels: bool
) -> None:
    original = make_batch(labels=labels)
    parts = original.split(n_parts)
    assert [len(part) for part in parts] == sizes
    assert [row for part in parts for row in rows(part)] == rows(original)
    for part in parts:
        assert part.history_offsets[0] == 0
        assert len(part.history_T) == part.history_offsets[-1]
        assert part.items is original.items
        assert (part.label_B is None) != labels


def test_the_shape_counts_spare_positions() -> None:
    assert make_batch().shape == (7, 12 + SPARE)
    assert len(make_batch()) == 7


def test_a_clone_has_its_own_memory_and_shares_the_items() -> None:
    original = make_batch()
    clone = original.clone()
    assert clone.items is original.items
    for name, tensor in tensors(clone).items():
        assert torch.equal(tensor, tensors(original)[name])
        tensor.zero_()
    assert rows(original) == rows(make_batch())
    assert make_batch(labels=False).clone().label_B is None


@pytest.mark.parametrize("labels", [True, False])
def test_copying_into_a_batch_overwrites_all_rows_in_place(labels: bool) -> None:
    target, source = make_batch(labels=labels), make_batch(40, labels=labels)
    addresses = {name: tensor.data_ptr() for name, tensor in tensors(target).items()}
    target.copy_from(source)
    assert rows(target) == rows(source)
    assert rows(target) != rows(make_batch(labels=labels))
    assert {name: tensor.data_ptr() for name, tensor in tensors(target).items()} == addresses
