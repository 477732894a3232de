"""Learning rates by configuration."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LRScheduler,
    ReduceLROnPlateau,
)

from mmctr_pipeline.training.config import TrainingConfig


class Schedule:
    """The rates of several optimisers, which follow one schedule.

    `cosine_restarts` takes each group from its own rate down to `min_learning_rate` in cycles of
    `restart_epochs`, each `restart_factor` times as long as the one before (Loshchilov and Hutter,
    arXiv 1608.03983); `cosine` does so once over `max_epochs`. `plateau` multiplies the rates by
    `plateau_factor` whenever `plateau_patience` validations in a row brought nothing better.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        config: TrainingConfig,
        larger_is_better: bool = True,
    ) -> None:
        self._members = [_scheduler(o, config, larger_is_better) for o in optimizers]

    def after_validation(self, value: float, epoch_ended: bool) -> None:
        """Set the rates for what follows a validation whose deciding metric was `value`."""
        for member in self._members:
            if isinstance(member, ReduceLROnPlateau):
                member.step(value)
            elif epoch_ended:
                member.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of each member."""
        return [member.state_dict() for member in self._members]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Inverse of `state_dict`; the rates themselves are part of the optimisers' state."""
        for member, state in zip(self._members, states, strict=True):
            member.load_state_dict(state)


def _scheduler(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, larger_is_better: bool
) -> LRScheduler:
    least = config.min_learning_rate
    if config.schedule == "cosine_restarts":
        return CosineAnnealingWarmRestarts(
            optimizer, T_0=config.restart_epochs, T_mult=config.restart_factor, eta_min=least
        )
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=config.max_epochs, eta_min=least)
    if config.schedule == "plateau":
        return ReduceLROnPlateau(
            optimizer,
            mode="max" if larger_is_better else "min",
            factor=config.plateau_factor,
            # torch counts the validations that it lets pass.
            patience=config.plateau_patience - 1,
            threshold=0.0,
            min_lr=least,
        )
    if config.schedule == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    raise ValueError(
        f"unknown schedule {config.schedule!r}; known: cosine_restarts, cosine, plateau, constant"
    )
