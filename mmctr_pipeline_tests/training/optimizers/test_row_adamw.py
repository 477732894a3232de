"""Row-wise AdamW trains like dense AdamW in float64 with the same gradients."""

import io
import math
from collections.abc import Callable, Collection

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.layers.embedding import EmbeddingTable, padded_distinct_rows
from mmctr_pipeline.training.optimizers import row_adamw
from mmctr_pipeline.training.optimizers.row_adamw import RowAdamW
from mmctr_pipeline_tests.training.optimizers.dense_adamw import DenseAdamW

DIM = 4
RATE = 1e-3
BOUND = 1e-3
"""Upper bound of the median of `displacement_errors`."""


def random_table(n_rows: int, seed: int = 1) -> EmbeddingTable:
    table = EmbeddingTable(n_rows, DIM)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        table.weight.normal_(0, 0.1, generator=generator)
        table.weight[0] = 0
    return table


def row_optimizer(table: EmbeddingTable, rate: float = 0.01, decay: float = 0.5) -> RowAdamW:
    return RowAdamW([{"tables": [table], "lr": rate, "weight_decay": decay}])


def train_step(
    optimizer: RowAdamW, *lookups: tuple[EmbeddingTable, torch.Tensor, torch.Tensor]
) -> None:
    """Take a step in which each look-up of ids in a table receives the given gradients."""
    optimizer.zero_grad()
    terms = [(table(ids) * gradients).sum() for table, ids, gradients in lookups]
    torch.stack(terms).sum().backward()
    optimizer.step()
    optimizer.count_step()


def current_weight(table: EmbeddingTable) -> torch.Tensor:
    return table.state_dict()["weight"]


def displacement_errors(
    end: torch.Tensor, dense: DenseAdamW, start: torch.Tensor, touched: torch.Tensor
) -> torch.Tensor:
    """Return the relative difference from dense AdamW in how far each touched row moved."""
    expected = (dense.weight - start.double())[touched].norm(dim=1)
    return ((end.double() - start.double())[touched].norm(dim=1) - expected).abs() / expected


def cosine_restarts(step: int) -> float:
    return 1e-6 + (RATE - 1e-6) * (1 + math.cos(math.pi * (step // 50 % 8) / 8)) / 2


def constant(step: int) -> float:
    return RATE


def long_tail_errors(
    scale: float, decay: float, rate_at: Callable[[int], float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the errors of row-wise and of lazy AdamW after 1,200 steps over 1,500 rows."""
    n_rows, n_steps, n_ids = 1500, 1200, 64
    generator = torch.Generator().manual_seed(0)
    zipf = 1 / torch.arange(1, n_rows).double() ** 1.05
    ids_SN = 1 + torch.multinomial(zipf.expand(n_steps, -1), n_ids, True, generator=generator)
    drift = torch.randn(n_rows, DIM, generator=generator)
    table = random_table(n_rows)
    start = table.weight.detach().clone()
    optimizer = row_optimizer(table, RATE, decay)
    dense, lazy = DenseAdamW(start), DenseAdamW(start, lazy=True)
    for step, ids in enumerate(ids_SN):
        gradients = scale * (drift[ids] + torch.randn(n_ids, DIM, generator=generator))
        rate = optimizer.param_groups[0]["lr"] = rate_at(step)
        train_step(optimizer, (table, ids, gradients))
        dense.step(ids, gradients, rate, decay)
        lazy.step(ids, gradients, rate, decay)
    touched = ids_SN.unique()
    assert len(touched) > 0.96 * n_rows
    return (
        displacement_errors(current_weight(table), dense, start, touched),
        displacement_errors(lazy.weight, dense, start, touched),
    )


@pytest.mark.parametrize(
    ("scale", "decay", "rate_at"),
    [
        (1.0, 3.0, cosine_restarts),
        pytest.param(1.0, 0.0, cosine_restarts, marks=pytest.mark.slow),
        # With gradients this small, epsilon matters; at 1e-9 it dominates.
        pytest.param(1e-6, 0.0, constant, marks=pytest.mark.slow),
        pytest.param(1e-9, 0.0, constant, marks=pytest.mark.slow),
    ],
)
def test_each_row_moves_as_far_as_under_dense_adamw(
    scale: float, decay: float, rate_at: Callable[[int], float]
) -> None:
    ours, lazy = long_tail_errors(scale, decay, rate_at)
    assert ours.median() < BOUND
    assert ours.quantile(0.99) < 0.05
    # The bound is strict: the errors of lazy AdamW, which skips rows that a batch does not touch,
    # are far above it.
    assert lazy.median() > 0.3


def small_steps(n_steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return ids, most of them common and a few rare, and gradients of each step."""
    generator = torch.Generator().manual_seed(5)
    rarity = 1 / torch.arange(1, 30).double() ** 1.5
    return [
        (
            1 + torch.multinomial(rarity, 6, True, generator=generator),
            torch.randn(6, DIM, generator=generator),
        )
        for _ in range(n_steps)
    ]


def test_a_lookup_returns_current_rows() -> None:
    table = random_table(40)
    dense = DenseAdamW(table.weight)
    optimizer = row_optimizer(table)
    all_ids = torch.arange(40)
    for ids, gradients in small_steps(60):
        train_step(optimizer, (table, ids, gradients))
        dense.step(ids, gradients, 0.01, 0.5)
        assert (table(all_ids).detach() - dense.weight).abs().max() < 1e-6


def test_two_groups_with_several_lookups_per_step_train_as_dense_adamw() -> None:
    one, two, three = random_table(30, 1), random_table(30, 2), random_table(30, 3)
    optimizer = RowAdamW(
        [
            {"tables": [one], "lr": 0.01, "weight_decay": 0.0},
            {"tables": [two, three], "lr": 0.002, "weight_decay": 2.0},
        ]
    )
    dense = [DenseAdamW(table.weight) for table in (one, two, three)]
    for ids, gradients in small_steps(100):
        second_ids, second_gradients = ids[:4].flip(0), gradients[2:] * 3
        lookups = [
            (one, ids, gradients),
            (two, ids, -gradients),
            (two, second_ids, second_gradients),
        ]
        if ids[0] == 1:  # not every step looks up every table
            lookups.append((three, ids, gradients))
        train_step(optimizer, *lookups)
        dense[0].step(ids, gradients, 0.01)
        dense[1].step(
            torch.cat([ids, second_ids]), torch.cat([-gradients, second_gradients]), 0.002, 2.0
        )
        dense[2].step(ids, gradients * float(ids[0] == 1), 0.002, 2.0)
    for table, expected in zip((one, two, three), dense, strict=True):
        assert (current_weight(table) - expected.weight).abs().max() < 2e-6


def test_padding_stays_zero_whatever_its_gradient() -> None:
    table = random_table(5)
    optimizer = row_optimizer(table, rate=0.1)
    for _ in range(3):
        train_step(optimizer, (table, torch.tensor([0, 3, 0, 99]), torch.ones(4, DIM)))
    assert bool((table(torch.tensor([0, 99])) == 0).all())
    assert bool((current_weight(table)[0] == 0).all())


def test_a_row_that_no_batch_touched_decays_as_under_dense_adamw() -> None:
    table = random_table(6)
    start, dense = table.weight.detach().clone(), DenseAdamW(table.weight)
    optimizer = row_optimizer(table, rate=0.0, decay=1.5)
    for step in range(50):
        rate = optimizer.param_groups[0]["lr"] = cosine_restarts(step * 20)
        ids, gradients = torch.tensor([1, 2]), torch.ones(2, DIM)
        train_step(optimizer, (table, ids, gradients))
        dense.step(ids, gradients, rate, 1.5)
    weight = current_weight(table)
    assert torch.allclose(weight[3:].double(), dense.weight[3:], rtol=1e-6, atol=0)
    assert bool((weight[3:] / start[3:] < 0.97).all())


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda model, optimizer: model.eval(), id="evaluation mode"),
        pytest.param(lambda model, optimizer: model.state_dict(), id="state of the module"),
        pytest.param(lambda model, optimizer: optimizer.state_dict(), id="state of the optimiser"),
        pytest.param(lambda model, optimizer: optimizer.release(), id="release"),
    ],
)
def test_tables_are_up_to_date_when_read(read: Callable[[nn.Module, RowAdamW], object]) -> None:
    tables = [random_table(30, seed) for seed in (1, 2)]
    model = nn.Sequential(nn.ModuleList(tables))
    dense = [DenseAdamW(table.weight) for table in tables]
    optimizer = RowAdamW([{"tables": tables, "lr": 0.01, "weight_decay": 0.5}])
    for ids, gradients in small_steps(30):
        train_step(optimizer, *((table, ids, gradients) for table in tables))
        for reference in dense:
            reference.step(ids, gradients, 0.01, 0.5)
    assert (tables[0].weight - dense[0].weight).abs().max() > 1e-4
    read(model, optimizer)
    for table, reference in zip(tables, dense, strict=True):
        assert (table.weight - reference.weight).abs().max() < 1e-6


def weights_and_moments(
    flush_after: Collection[int],
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    table = random_table(30)
    optimizer = row_optimizer(table)
    for step, (ids, gradients) in enumerate(small_steps(200)):
        train_step(optimizer, (table, ids, gradients))
        if step in flush_after:
            optimizer.flush()
    return current_weight(table), optimizer.state_dict()["moments"][0]


def test_flushing_changes_only_rounding() -> None:
    weight, (m, v) = weights_and_moments(())
    flushed_weight, (flushed_m, flushed_v) = weights_and_moments((0, 7, 8, 91, 140))
    assert (weight - flushed_weight).abs().max() < 1e-6
    assert torch.allclose(m, flushed_m, rtol=1e-4, atol=1e-9)
    assert torch.allclose(v, flushed_v, rtol=1e-4, atol=1e-12)


def test_a_flush_happens_after_a_fixed_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    n_steps = 512
    monkeypatch.setattr(row_adamw, "_STEPS_BETWEEN_FLUSHES", n_steps)
    table = random_table(4)
    dense = DenseAdamW(table.weight)
    optimizer = row_optimizer(table, rate=1e-3, decay=0.01)
    generator = torch.Generator().manual_seed(3)
    ids = torch.tensor([1])
    for step in range(1, n_steps + 15):
        gradients = torch.randn(1, DIM, generator=generator)
        if step in (n_steps - 96, n_steps + 3):  # a rare row, once before and once after the flush
            ids, gradients = torch.tensor([1, 2]), gradients.repeat(2, 1)
        train_step(optimizer, (table, ids[: len(gradients)], gradients))
        dense.step(ids[: len(gradients)], gradients, 1e-3, 0.01)
        if step in (n_steps - 1, n_steps):
            is_up_to_date = bool((table.weight - dense.weight).abs().max() < 1e-5)
            assert is_up_to_date == (step == n_steps)
    assert (current_weight(table) - dense.weight).abs().max() < 1e-5


def test_a_saved_state_continues_bit_by_bit() -> None:
    table = random_table(30)
    optimizer = row_optimizer(table)
    steps = small_steps(150)
    for ids, gradients in steps[:70]:
        train_step(optimizer, (table, ids, gradients))
    optimizer.param_groups[0]["lr"] = 0.003
    file = io.BytesIO()
    torch.save([table.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    other_table = random_table(30)
    other = row_optimizer(other_table)
    saved_table, saved_optimizer = torch.load(file, weights_only=True)
    other_table.load_state_dict(saved_table)
    other.load_state_dict(saved_optimizer)
    for ids, gradients in steps[70:]:
        train_step(optimizer, (table, ids, gradients))
        train_step(other, (other_table, ids, gradients))
    assert torch.equal(current_weight(table), current_weight(other_table))


def test_released_tables_train_as_plain_ones() -> None:
    table = random_table(30)
    optimizer = row_optimizer(table)
    train_step(optimizer, (table, *small_steps(1)[0]))
    optimizer.release()
    table.weight.grad = None
    table(torch.tensor([2])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad[2].tolist() == [1] * DIM


def test_filler_rows_change_no_weights_or_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, (m, v) = weights_and_moments((80,))
    # Devices other than the CPU use filler rows, so that no shape depends on data.
    monkeypatch.setattr(row_adamw, "distinct_rows", padded_distinct_rows)
    padded_weight, (padded_m, padded_v) = weights_and_moments((80,))
    assert torch.equal(weight, padded_weight)
    assert torch.equal(m, padded_m)
    assert torch.equal(v, padded_v)
