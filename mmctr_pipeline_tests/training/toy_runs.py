"""Short runs of the training loop on toy modules."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.loop import TrainBatches, fit
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.stopping import EarlyStopping, StoppingPolicy


class Weight(nn.Module):
    """Multiplies by one weight."""

    def __init__(self, value: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.weight * batch


def squared_error(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference from three times the batch."""
    return (module(batch) - 3 * batch).square().mean()


def make_batches(*sizes: int) -> TrainBatches[torch.Tensor]:
    """Return batches of these sizes that hold their epoch's number."""

    def epoch(number: int) -> Iterator[torch.Tensor]:
        return (torch.full((size, 1), float(number)) for size in sizes)

    return TrainBatches(sum(sizes), epoch)


def fit_toy(
    module: nn.Module,
    config: TrainingConfig,
    evaluate: Callable[[nn.Module], Mapping[str, float]] = lambda module: {"score": 0.5},
    batches: TrainBatches[Any] | None = None,
    loss: Callable[[nn.Module, Any], torch.Tensor] = squared_error,
    stopping: StoppingPolicy | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainingHistory:
    """Train all parameters of `module`; by default early stopping watches `score`."""
    return fit(
        module,
        {"main": list(module.parameters())},
        batches or make_batches(4, 2),
        loss,
        stopping or EarlyStopping(evaluate, "score", config),
        config,
        checkpoints,
    )
