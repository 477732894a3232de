"""Several validations per epoch, the final fit's schedule, and the time limit."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Literal

import pytest
import torch
from torch import nn

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.loop import TrainBatches
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.stopping import FollowSelection, StoppingPolicy
from mmctr_pipeline_tests.training.toy_runs import Weight, fit_toy


@dataclasses.dataclass
class Trace:
    """A run over rows 0, 1, ... in batches of `sizes` that records what happens.

    The loss of row i is i in every epoch. Each validation returns the next of `values`, and after
    that always the last of them.
    """

    sizes: tuple[int, ...]
    values: Sequence[float] = (0.5,)
    rows: list[int] = dataclasses.field(default_factory=list)
    n_rows_at_validation: list[int] = dataclasses.field(default_factory=list)
    draws: list[float] = dataclasses.field(default_factory=list)

    def epoch(self, number: int) -> Iterator[torch.Tensor]:
        return iter(torch.arange(sum(self.sizes)).split(list(self.sizes)))

    def loss(self, module: nn.Module, rows_B: torch.Tensor) -> torch.Tensor:
        self.rows += rows_B.tolist()
        self.draws.append(torch.rand(()).item())
        return (rows_B + 0 * module(rows_B)).mean()

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        self.n_rows_at_validation.append(len(self.rows))
        found = len(self.n_rows_at_validation) - 1
        return {"score": self.values[min(found, len(self.values) - 1)]}

    def run(
        self, config: TrainingConfig, stopping: StoppingPolicy | None = None
    ) -> TrainingHistory:
        batches = TrainBatches(sum(self.sizes), self.epoch)
        return fit_toy(Weight(), config, self.evaluate, batches, self.loss, stopping)


@pytest.mark.parametrize(
    ("sizes", "n_parts", "n_rows", "epochs"),
    [
        ((10,) * 10, 1, [100], [1]),
        ((10,) * 10, 2, [50, 100], [0.5, 1]),
        ((10,) * 10, 5, [20, 40, 60, 80, 100], [0.2, 0.4, 0.6, 0.8, 1]),
        # A batch belongs to the part of its last row.
        ((10,) * 9 + (3,), 2, [40, 93], [0.5, 1]),
        ((5, 1, 7, 2, 1), 2, [6, 16], [0.5, 1]),
        # Parts in which no batch ends are skipped, but never the last one.
        ((4, 2), 5, [4, 6], [0.8, 1]),
        ((6,), 3, [6], [1]),
    ],
)
def test_each_row_is_trained_once_per_epoch_in_any_number_of_parts(
    sizes: tuple[int, ...], n_parts: int, n_rows: list[int], epochs: list[float]
) -> None:
    trace = Trace(sizes)
    history = trace.run(TrainingConfig(max_epochs=2, validations_per_epoch=n_parts, patience=9))
    assert trace.rows == 2 * list(range(sum(sizes)))
    assert trace.n_rows_at_validation == n_rows + [sum(sizes) + n for n in n_rows]
    assert [record.epoch for record in history.epochs] == pytest.approx(
        epochs + [1 + epoch for epoch in epochs]
    )


def test_train_loss_is_the_mean_over_the_rows_since_the_last_validation() -> None:
    history = Trace((5, 1, 7, 2, 1)).run(TrainingConfig(max_epochs=1, validations_per_epoch=2))
    first, second = history.epochs
    assert first.train_loss == pytest.approx(sum(range(6)) / 6)
    assert second.train_loss == pytest.approx(sum(range(6, 16)) / 10)


@pytest.mark.parametrize(
    ("sizes", "n_parts", "last_epoch"),
    [((1, 1, 1, 1), 1, 4), ((1, 1, 1, 1), 2, 3.5), ((1, 1, 1, 1), 4, 3.25), ((4, 2), 5, 3.8)],
)
def test_patience_counts_epochs_not_validations(
    sizes: tuple[int, ...], n_parts: int, last_epoch: float
) -> None:
    """The first validation is the best, so the run ends three epochs after it."""
    history = Trace(sizes).run(
        TrainingConfig(max_epochs=20, validations_per_epoch=n_parts, patience=3)
    )
    assert history.epochs[-1].epoch == pytest.approx(last_epoch)
    assert history.stopped_early


def test_the_best_epoch_may_be_a_fraction() -> None:
    history = Trace((1,) * 4, values=[0.1, 0.2, 0.9, 0.3]).run(
        TrainingConfig(max_epochs=2, validations_per_epoch=2)
    )
    assert history.best_epoch == 1.5
    assert history.best_index == 2


def learning_rates(history: TrainingHistory) -> list[float]:
    return [record.learning_rate for record in history.epochs]


def test_cosine_schedules_step_once_per_epoch() -> None:
    whole, halves = (
        learning_rates(
            Trace((1,) * 4).run(
                TrainingConfig(max_epochs=4, validations_per_epoch=n, schedule="cosine")
            )
        )
        for n in (1, 2)
    )
    assert halves == [rate for rate in whole for _ in range(2)]
    assert len(set(whole)) == 4


def test_a_plateau_lowers_the_rate_after_validations_without_improvement() -> None:
    config = TrainingConfig(
        max_epochs=4,
        validations_per_epoch=2,
        schedule="plateau",
        learning_rate=0.08,
        plateau_patience=2,
        plateau_factor=0.25,
    )
    history = Trace((1,) * 4, values=[0.1, 0.2, 0.2, 0.15, 0.1, 0.3, 0.2, 0.3]).run(config)
    # The third and fourth values are no better than the second, so the rate is lower from part 5.
    assert learning_rates(history) == pytest.approx([0.08] * 4 + [0.02] * 4)


def test_each_part_has_its_own_random_numbers_which_follow_from_the_seed() -> None:
    config = TrainingConfig(max_epochs=3, validations_per_epoch=2, patience=9)
    draws = []
    for seed in (1, 1, 2):
        trace = Trace((1,) * 4)
        trace.run(dataclasses.replace(config, seed=seed))
        draws.append(trace.draws)
    assert draws[0] == draws[1]
    assert len(set(draws[0] + draws[2])) == 2 * 3 * 4


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "cosine_restarts"])
def test_a_final_fit_repeats_the_learning_rates_of_selection_up_to_the_best_epoch(
    schedule: Literal["plateau", "cosine", "cosine_restarts"], caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainingConfig(
        max_epochs=9,
        patience=2,
        validations_per_epoch=2,
        schedule=schedule,
        plateau_factor=0.5,
        restart_epochs=2,
    )
    selection = Trace((1,) * 4, values=[0.5, 0.2, 0.1, 0.6, 0.3, 0.4, 0.8, 0.1]).run(config)
    assert selection.best_epoch == 3.5 < selection.epochs[-1].epoch

    # More rows, as in a final fit: an epoch and its parts are longer.
    final = Trace((1,) * 6)
    caplog.set_level(logging.INFO)
    history = final.run(config, FollowSelection(selection))
    assert final.n_rows_at_validation == []
    assert final.rows == 3 * list(range(6)) + [0, 1, 2]
    assert [record.epoch for record in history.epochs] == [0.5 * n for n in range(1, 8)]
    assert learning_rates(history) == learning_rates(selection)[:7]
    assert len(set(learning_rates(history))) > 2
    assert history.ended_by == "selection"
    assert not any("score" in line or "best" in line for line in caplog.messages)
    assert caplog.messages[0].startswith("final fit: epoch 0.5 of 3.5: train loss ")


def test_the_shortest_time_limit_allows_one_step_and_one_validation() -> None:
    trace = Trace((1,) * 4)
    history = trace.run(TrainingConfig(max_epochs=3, validations_per_epoch=2, max_minutes=1e-9))
    assert [record.epoch for record in history.epochs] == [0.25]
    assert history.ended_by == "max_minutes"
    assert trace.rows == [0]


@dataclasses.dataclass
class SlowTrace(Trace):
    """A run whose steps take one second and whose validations take two, by its own clock."""

    now: float = 0.0

    def loss(self, module: nn.Module, rows_B: torch.Tensor) -> torch.Tensor:
        self.now += 1
        return super().loss(module, rows_B)

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        self.now += 2
        return super().evaluate(module)


@pytest.mark.parametrize(
    ("seconds", "epochs"),
    [
        (1, [0.5]),
        (4, [1]),
        (9, [1, 1.5]),
        (10.5, [1, 1.75]),
        (15, [1, 2, 2.5]),
        (99, [1, 2, 3]),
    ],
)
def test_a_time_limit_ends_an_epoch_early_and_holds_to_within_a_step(
    seconds: float, epochs: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = SlowTrace((1,) * 4)
    monkeypatch.setattr("mmctr_pipeline.files.progress.time.monotonic", lambda: trace.now)
    history = trace.run(TrainingConfig(max_epochs=3, max_minutes=seconds / 60))
    assert [record.epoch for record in history.epochs] == epochs
    assert len(trace.rows) == 4 * epochs[-1]
    assert history.ended_by == ("max_epochs" if epochs[-1] == 3 else "max_minutes")
    # The limit does not include the first validation, whose time is unknown in advance.
    assert trace.now <= seconds + 1 + 2 * (len(epochs) == 1)
