"""Row-wise AdamW against dense AdamW in float64, under identical gradients."""

import io
import math
from collections.abc import Callable, Collection

import pytest
import torch

from mmctr_pipeline.models.layers.embedding import EmbeddingTable, padded_distinct_rows
from mmctr_pipeline.training.optimizers import row_adamw
from mmctr_pipeline.training.optimizers.row_adamw import RowAdamW
from mmctr_pipeline_tests.training.optimizers.dense_adamw import DenseAdamW

DIM = 4
RATE = 1e-3
BOUND = 1e-3
"""What the displacement of the median row may differ by."""


def table_of(n_rows: int, seed: int = 1) -> EmbeddingTable:
    table = EmbeddingTable(n_rows, DIM)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        table.weight.normal_(0, 0.1, generator=generator)
        table.weight[0] = 0
    return table


def train_step(
    optimizer: RowAdamW, *lookups: tuple[EmbeddingTable, torch.Tensor, torch.Tensor]
) -> None:
    """Take a step in which the look-up of ids in a table gets the gradients beside them."""
    optimizer.zero_grad()
    terms = [(table(ids) * gradients).sum() for table, ids, gradients in lookups]
    torch.stack(terms).sum().backward()
    optimizer.step()
    optimizer.count_step()


def displacement_errors(
    end: torch.Tensor, dense: DenseAdamW, start: torch.Tensor, touched: torch.Tensor
) -> torch.Tensor:
    """Return by how much of dense AdamW's the length of each touched row's way differs."""
    expected = (dense.weight - start.double())[touched].norm(dim=1)
    return ((end.double() - start.double())[touched].norm(dim=1) - expected).abs() / expected


def cosine_restarts(step: int) -> float:
    return 1e-6 + (RATE - 1e-6) * (1 + math.cos(math.pi * (step // 50 % 8) / 8)) / 2


def constant(step: int) -> float:
    return RATE


def long_tail(
    scale: float, decay: float, rate_of: Callable[[int], float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the errors of row-wise and of lazy AdamW after 2,000 steps over 3,000 rows."""
    n_rows, n_steps, n_ids = 3000, 2000, 64
    generator = torch.Generator().manual_seed(0)
    zipf = 1 / torch.arange(1, n_rows).double() ** 1.05
    ids_SN = 1 + torch.multinomial(zipf.expand(n_steps, -1), n_ids, True, generator=generator)
    drift = torch.randn(n_rows, DIM, generator=generator)
    table = table_of(n_rows)
    start = table.weight.detach().clone()
    optimizer = RowAdamW([{"tables": [table], "lr": RATE, "weight_decay": decay}])
    dense, lazy = DenseAdamW(start), DenseAdamW(start, lazy=True)
    for step, ids in enumerate(ids_SN):
        gradients = scale * (drift[ids] + torch.randn(n_ids, DIM, generator=generator))
        rate = optimizer.param_groups[0]["lr"] = rate_of(step)
        train_step(optimizer, (table, ids, gradients))
        dense.step(ids, gradients, rate, decay)
        lazy.step(ids, gradients, rate, decay)
    optimizer.flush()
    touched = ids_SN.unique()
    assert len(touched) > 2900
    return (
        displacement_errors(table.weight.detach(), dense, start, touched),
        displacement_errors(lazy.weight, dense, start, touched),
    )


@pytest.mark.parametrize(
    ("scale", "decay", "rate_of"),
    [
        (1.0, 0.0, cosine_restarts),
        (1.0, 3.0, cosine_restarts),
        # Where gradients are this small, epsilon matters: much, and then more than all else.
        (1e-6, 0.0, constant),
        (1e-9, 0.0, constant),
    ],
)
def test_each_row_moves_as_far_as_under_dense_adamw(
    scale: float, decay: float, rate_of: Callable[[int], float]
) -> None:
    ours, lazy = long_tail(scale, decay, rate_of)
    assert ours.median() < BOUND
    assert ours.quantile(0.99) < 0.05
    # The bound can tell: passing over rows that a batch does not touch is far from it.
    assert lazy.median() > 0.3


def small_steps(n_steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return ids, most of them common and a few of them rare, and gradients of each step."""
    generator = torch.Generator().manual_seed(5)
    rarity = 1 / torch.arange(1, 30).double() ** 1.5
    return [
        (
            1 + torch.multinomial(rarity, 6, True, generator=generator),
            torch.randn(6, DIM, generator=generator),
        )
        for _ in range(n_steps)
    ]


def test_a_lookup_returns_the_rows_as_they_are_now() -> None:
    table = table_of(40)
    dense = DenseAdamW(table.weight)
    optimizer = RowAdamW([{"tables": [table], "lr": 0.01, "weight_decay": 0.5}])
    everything = torch.arange(40)
    for ids, gradients in small_steps(60):
        train_step(optimizer, (table, ids, gradients))
        dense.step(ids, gradients, 0.01, 0.5)
        assert (table(everything).detach() - dense.weight).abs().max() < 1e-6


def test_tables_of_two_groups_looked_up_several_times_in_a_step() -> None:
    one, two, three = table_of(30, 1), table_of(30, 2), table_of(30, 3)
    optimizer = RowAdamW(
        [
            {"tables": [one], "lr": 0.01, "weight_decay": 0.0},
            {"tables": [two, three], "lr": 0.002, "weight_decay": 2.0},
        ]
    )
    dense = [DenseAdamW(table.weight) for table in (one, two, three)]
    for ids, gradients in small_steps(100):
        again, of_again = ids[:4].flip(0), gradients[2:] * 3
        lookups = [(one, ids, gradients), (two, ids, -gradients), (two, again, of_again)]
        if ids[0] == 1:  # a table may be left out of a step
            lookups.append((three, ids, gradients))
        train_step(optimizer, *lookups)
        dense[0].step(ids, gradients, 0.01)
        dense[1].step(torch.cat([ids, again]), torch.cat([-gradients, of_again]), 0.002, 2.0)
        dense[2].step(ids, gradients * float(ids[0] == 1), 0.002, 2.0)
    optimizer.flush()
    for table, expected in zip((one, two, three), dense, strict=True):
        assert (table.weight.detach() - expected.weight).abs().max() < 2e-6


def test_padding_stays_zero_whatever_its_gradient() -> None:
    table = table_of(5)
    optimizer = RowAdamW([{"tables": [table], "lr": 0.1, "weight_decay": 0.5}])
    for _ in range(3):
        train_step(optimizer, (table, torch.tensor([0, 3, 0, 99]), torch.ones(4, DIM)))
    assert bool((table(torch.tensor([0, 99])) == 0).all())
    optimizer.flush()
    assert bool((table.weight[0] == 0).all())


def test_a_row_that_no_batch_touched_decays_as_under_dense_adamw() -> None:
    table = table_of(6)
    start, dense = table.weight.detach().clone(), DenseAdamW(table.weight)
    optimizer = RowAdamW([{"tables": [table], "lr": 0.0, "weight_decay": 1.5}])
    for step in range(50):
        rate = optimizer.param_groups[0]["lr"] = cosine_restarts(step * 20)
        ids, gradients = torch.tensor([1, 2]), torch.ones(2, DIM)
        train_step(optimizer, (table, ids, gradients))
        dense.step(ids, gradients, rate, 1.5)
    optimizer.flush()
    assert torch.allclose(table.weight[3:].double(), dense.weight[3:], rtol=1e-6, atol=0)
    assert bool((table.weight[3:] / start[3:] < 0.97).all())


def weights_and_state(
    flush_after: Collection[int],
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    table = table_of(30)
    optimizer = RowAdamW([{"tables": [table], "lr": 0.01, "weight_decay": 0.5}])
    for step, (ids, gradients) in enumerate(small_steps(200)):
        train_step(optimizer, (table, ids, gradients))
        if step in flush_after:
            optimizer.flush()
    optimizer.flush()
    return table.weight.detach(), optimizer.state_dict()["moments"][0]


def test_flushing_changes_rounding_alone() -> None:
    weight, state = weights_and_state(())
    flushed_weight, flushed_state = weights_and_state((0, 7, 8, 91, 140))
    assert (weight - flushed_weight).abs().max() < 1e-6
    assert torch.allclose(state["m"], flushed_state["m"], rtol=1e-4, atol=1e-9)
    assert torch.allclose(state["v"], flushed_state["v"], rtol=1e-4, atol=1e-12)


def test_a_flush_comes_by_itself_after_4096_steps() -> None:
    table = table_of(4)
    dense = DenseAdamW(table.weight)
    optimizer = RowAdamW([{"tables": [table], "lr": 1e-3, "weight_decay": 0.01}])
    generator = torch.Generator().manual_seed(3)
    ids = torch.tensor([1])
    for step in range(1, 4111):
        gradients = torch.randn(1, DIM, generator=generator)
        if step in (4000, 4099):  # a rare row, once on either side of the flush
            ids, gradients = torch.tensor([1, 2]), gradients.repeat(2, 1)
        train_step(optimizer, (table, ids[: len(gradients)], gradients))
        dense.step(ids[: len(gradients)], gradients, 1e-3, 0.01)
        if step == 4095:
            with pytest.raises(RuntimeError, match="flush before"):
                optimizer.state_dict()
        if step == 4096:
            assert optimizer.state_dict()["total_steps"][0] == 4096
            assert (table.weight - dense.weight).abs().max() < 1e-5
    optimizer.flush()
    assert (table.weight - dense.weight).abs().max() < 1e-5


def test_the_state_is_refused_while_rows_are_not_up_to_date() -> None:
    table = table_of(30)
    optimizer = RowAdamW([{"tables": [table], "lr": 0.01, "weight_decay": 0.0}])
    optimizer.state_dict()
    train_step(optimizer, (table, *small_steps(1)[0]))
    with pytest.raises(RuntimeError, match="flush before asking for the state"):
        optimizer.state_dict()
    optimizer.flush()
    optimizer.state_dict()


def test_a_saved_state_goes_on_bit_by_bit() -> None:
    def new() -> tuple[EmbeddingTable, RowAdamW]:
        table = table_of(30)
        return table, RowAdamW([{"tables": [table], "lr": 0.01, "weight_decay": 0.5}])

    table, optimizer = new()
    steps = small_steps(150)
    for ids, gradients in steps[:70]:
        train_step(optimizer, (table, ids, gradients))
    optimizer.param_groups[0]["lr"] = 0.003
    optimizer.flush()
    file = io.BytesIO()
    torch.save([table.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    other_table, other = new()
    of_table, of_optimizer = torch.load(file, weights_only=True)
    other_table.load_state_dict(of_table)
    other.load_state_dict(of_optimizer)
    for ids, gradients in steps[70:]:
        train_step(optimizer, (table, ids, gradients))
        train_step(other, (other_table, ids, gradients))
    optimizer.flush()
    other.flush()
    assert torch.equal(table.weight, other_table.weight)


def test_released_tables_are_up_to_date_and_train_as_plain_ones() -> None:
    table = table_of(30)
    dense = DenseAdamW(table.weight)
    optimizer = RowAdamW([{"tables": [table], "lr": 0.01, "weight_decay": 0.5}])
    for ids, gradients in small_steps(30):
        train_step(optimizer, (table, ids, gradients))
        dense.step(ids, gradients, 0.01, 0.5)
    optimizer.release()
    assert (table.weight - dense.weight).abs().max() < 1e-6
    table(torch.tensor([2])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad[2].tolist() == [1] * DIM


def test_spare_rows_train_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, state = weights_and_state((80,))
    # What other devices than the CPU use, where no shape may depend on data.
    monkeypatch.setattr(row_adamw, "distinct_rows", padded_distinct_rows)
    padded_weight, padded_state = weights_and_state((80,))
    assert torch.equal(weight, padded_weight)
    assert torch.equal(state["m"], padded_state["m"])
    assert torch.equal(state["v"], padded_state["v"])
