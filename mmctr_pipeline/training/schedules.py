"""Learning rate per epoch by configuration."""

import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingWarmRestarts, LRScheduler

from mmctr_pipeline.training.config import TrainingConfig


def build_schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig) -> LRScheduler:
    """Return the schedule, to be stepped once after every epoch.

    Cosine annealing with warm restarts takes each group from its own rate down to
    `min_learning_rate` in cycles of `restart_epochs`, each `restart_factor` times as long as the
    one before (Loshchilov and Hutter, arXiv 1608.03983).
    """
    if config.schedule == "cosine_restarts":
        return CosineAnnealingWarmRestarts(
            optimizer,
            T_0=config.restart_epochs,
            T_mult=config.restart_factor,
            eta_min=config.min_learning_rate,
        )
    if config.schedule == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    raise ValueError(f"unknown schedule {config.schedule!r}; known: cosine_restarts, constant")
