"""Embedding tables handle padding and unknown ids, and let an optimiser serve their rows."""

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.layers.embedding import (
    EmbeddingTable,
    distinct_rows,
    known_rows,
    padded_distinct_rows,
)


class Doubling:
    """Serves the rows of a table times two, and records look-ups and flushes."""

    def __init__(self, table: EmbeddingTable) -> None:
        self.table = table
        self.asked: list[list[int]] = []
        self.n_flushes = 0

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        self.asked.append(ids.tolist())
        return self.table.weight[ids] * 2

    def flush(self) -> None:
        self.n_flushes += 1


def test_known_rows_maps_ids_beyond_the_table_to_row_zero() -> None:
    assert known_rows(torch.tensor([0, 1, 4, 5, 99]), 5).tolist() == [0, 1, 4, 0, 0]


def test_weights_and_gradients_equal_those_of_nn_embedding_with_padding() -> None:
    torch.manual_seed(0)
    ours = EmbeddingTable(7, 3)
    torch.manual_seed(0)
    theirs = nn.Embedding(7, 3, padding_idx=0)
    assert torch.equal(ours.weight, theirs.weight)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ids = torch.tensor([[1, 6, 0], [3, 3, 2]])
    assert torch.equal(ours(ids), theirs(ids))
    for table in (ours, theirs):
        table(ids).square().sum().backward()
    assert torch.equal(ours.weight.grad, theirs.weight.grad)


def test_padding_and_unknown_ids_are_zero_and_are_not_trained() -> None:
    table = EmbeddingTable(4, 2)
    rows = table(torch.tensor([0, 4, 1000, 2]))
    assert rows[:3].tolist() == [[0, 0]] * 3
    rows.sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]


def test_the_server_answers_lookups_only_in_training_mode() -> None:
    table = EmbeddingTable(4, 2)
    server = Doubling(table)
    ids = torch.tensor([[1, 9], [3, 0]])
    plain = table(ids)
    table.server = server
    assert torch.equal(table(ids), plain * 2)
    assert server.asked == [[1, 0, 3, 0]]
    assert torch.equal(table.eval()(ids), plain)
    assert len(server.asked) == 1


def test_state_dict_and_evaluation_mode_flush_the_server() -> None:
    table = EmbeddingTable(4, 2)
    table.server = server = Doubling(table)
    model = nn.Sequential(table)
    assert list(model.state_dict()) == ["0.weight"]  # the server is not part of the state
    assert server.n_flushes == 1
    model.train()
    assert server.n_flushes == 1
    model.eval()
    assert server.n_flushes == 2


@pytest.mark.parametrize("ids", [[7], [0, 0, 0], [3, 1, 3, 0, 8, 1, 1, 5], [4, 4, 2, 2, 9]])
def test_distinct_rows_padded_or_not_reproduce_the_ids(ids: list[int]) -> None:
    ids_N = torch.tensor(ids)
    row_U, slot_N = distinct_rows(ids_N)
    padded_N, padded_slot_N = padded_distinct_rows(ids_N)
    assert row_U.tolist() == sorted(set(ids))
    assert row_U[slot_N].tolist() == ids
    assert padded_N[padded_slot_N].tolist() == ids
    assert padded_N.tolist() == row_U.tolist() + [0] * (len(ids) - len(row_U))
