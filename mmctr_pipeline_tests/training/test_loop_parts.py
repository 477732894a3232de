"""Several validations per epoch: what is trained before each, and what still counts epochs."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import nn

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.loop import TrainBatches, Validation, fit
from mmctr_pipeline.training.run_state import TrainingHistory


@dataclasses.dataclass
class Trace:
    """A run over rows 0, 1, ... in batches of `sizes` that writes down what happens when.

    The loss of row i is i in every epoch, and each validation finds the next of `values`, the last
    of them for ever.
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
        return (rows_B + 0 * module.weight).mean()  # type: ignore[operator]

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        self.n_rows_at_validation.append(len(self.rows))
        found = len(self.n_rows_at_validation) - 1
        return {"score": self.values[min(found, len(self.values) - 1)]}

    def run(
        self, config: TrainingConfig, follows: TrainingHistory | None = None
    ) -> TrainingHistory:
        module = nn.Linear(1, 1, bias=False)
        return fit(
            module,
            {"main": list(module.parameters())},
            TrainBatches(sum(self.sizes), self.epoch),
            self.loss,
            Validation(self.evaluate, "score", follows=follows),
            config,
        )


@pytest.mark.parametrize(
    ("sizes", "n_parts", "n_rows", "epochs"),
    [
        ((10,) * 10, 1, [100], [1]),
        ((10,) * 10, 2, [50, 100], [0.5, 1]),
        ((10,) * 10, 5, [20, 40, 60, 80, 100], [0.2, 0.4, 0.6, 0.8, 1]),
        # A batch belongs to the part that its last row belongs to.
        ((10,) * 9 + (3,), 2, [40, 93], [0.5, 1]),
        ((5, 1, 7, 2, 1), 2, [6, 16], [0.5, 1]),
        # Parts that no batch ends in are left out, never the last.
        ((4, 2), 5, [4, 6], [0.8, 1]),
        ((6,), 3, [6], [1]),
    ],
)
def test_each_row_is_trained_once_per_epoch_whatever_the_parts(
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
def test_patience_counts_epochs(sizes: tuple[int, ...], n_parts: int, last_epoch: float) -> None:
    """The first validation is the best one, and three epochs later there is none better."""
    history = Trace(sizes).run(
        TrainingConfig(max_epochs=20, validations_per_epoch=n_parts, patience=3)
    )
    assert history.epochs[-1].epoch == pytest.approx(last_epoch)
    assert history.stopped_early


def test_the_best_weights_may_be_those_of_half_an_epoch() -> None:
    history = Trace((1,) * 4, values=[0.1, 0.2, 0.9, 0.3]).run(
        TrainingConfig(max_epochs=2, validations_per_epoch=2)
    )
    assert history.best_epoch == 1.5
    assert history.best_index == 2


def test_cosine_schedules_step_once_per_epoch() -> None:
    rates = [
        [
            record.learning_rate
            for record in Trace((1,) * 4)
            .run(TrainingConfig(max_epochs=4, validations_per_epoch=n, schedule="cosine"))
            .epochs
        ]
        for n in (1, 2)
    ]
    assert rates[1] == [rate for rate in rates[0] for _ in range(2)]
    assert len(set(rates[0])) == 4


def test_a_plateau_lowers_the_rate_after_validations_without_a_better_one() -> None:
    config = TrainingConfig(
        max_epochs=4,
        validations_per_epoch=2,
        schedule="plateau",
        learning_rate=0.08,
        plateau_patience=2,
        plateau_factor=0.25,
    )
    history = Trace((1,) * 4, values=[0.1, 0.2, 0.2, 0.15, 0.1, 0.3, 0.2, 0.3]).run(config)
    rates = [record.learning_rate for record in history.epochs]
    # The third and the fourth are no better than the second, so the fifth part is slower.
    assert rates == pytest.approx([0.08] * 4 + [0.02] * 4)


def test_each_part_has_random_numbers_of_its_own_and_the_same_in_every_run() -> None:
    config = TrainingConfig(max_epochs=3, validations_per_epoch=2, patience=9)
    draws = []
    for seed in (1, 1, 2):
        trace = Trace((1,) * 4)
        trace.run(dataclasses.replace(config, seed=seed))
        draws.append(trace.draws)
    assert draws[0] == draws[1]
    assert len(set(draws[0] + draws[2])) == 2 * 3 * 4


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "cosine_restarts"])
def test_a_run_that_follows_another_has_its_rates_and_stops_at_its_best(
    schedule: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainingConfig(
        max_epochs=9,
        patience=2,
        validations_per_epoch=2,
        schedule=schedule,
        plateau_factor=0.5,
        restart_epochs=2,
    )
    chosen = Trace((1,) * 4, values=[0.5, 0.2, 0.1, 0.6, 0.3, 0.4, 0.8, 0.1])
    selection = chosen.run(config)
    assert selection.best_epoch == 3.5 < selection.epochs[-1].epoch

    # More rows, as after selection: parts are parts of these.
    following = Trace((1,) * 6)
    caplog.set_level(logging.INFO)
    history = following.run(config, follows=selection)
    assert following.n_rows_at_validation == []
    assert following.rows == 3 * list(range(6)) + [0, 1, 2]
    assert [record.epoch for record in history.epochs] == [0.5 * n for n in range(1, 8)]
    rates = [record.learning_rate for record in selection.epochs[:7]]
    assert [record.learning_rate for record in history.epochs] == rates
    assert len(set(rates)) > 2
    assert history.ended_by == "selection"
    assert not any("score" in line or "best" in line for line in caplog.messages)
    assert caplog.messages[0].startswith("final fit: epoch 0.5 of 3.5: train loss ")


def test_a_time_limit_leaves_one_step_and_one_validation() -> None:
    trace = Trace((1,) * 4)
    history = trace.run(TrainingConfig(max_epochs=3, validations_per_epoch=2, max_minutes=1e-9))
    assert [record.epoch for record in history.epochs] == [0.25]
    assert history.ended_by == "max_minutes"
    assert trace.rows == [0]


@dataclasses.dataclass
class SlowTrace(Trace):
    """A run whose steps take a second each and whose validations two, by a clock of its own."""

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
def test_a_time_limit_ends_an_epoch_early_and_is_kept_to_a_step(
    seconds: float, epochs: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = SlowTrace((1,) * 4)
    monkeypatch.setattr("mmctr_pipeline.files.progress.time.monotonic", lambda: trace.now)
    history = trace.run(TrainingConfig(max_epochs=3, max_minutes=seconds / 60))
    assert [record.epoch for record in history.epochs] == epochs
    assert len(trace.rows) == 4 * epochs[-1]
    assert history.ended_by == ("max_epochs" if epochs[-1] == 3 else "max_minutes")
    # The first validation could not be foreseen.
    assert trace.now <= seconds + 1 + 2 * (len(epochs) == 1)
