"""Learning-rate schedules."""

import torch
from torch.optim import lr_scheduler

from mmctr_pipeline.training.config import TrainingConfig


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, larger_is_better: bool = True
) -> lr_scheduler.LRScheduler:
    """Return the configured schedule of one optimiser's learning rates.

    `cosine_restarts` takes each group from its own rate down to `min_learning_rate` in cycles; the
    first lasts `restart_epochs`, each further one `restart_factor` times as long as the one before
    (Loshchilov and Hutter, arXiv 1608.03983). `cosine` does so once, over `max_epochs`. `plateau`
    multiplies the rates by `plateau_factor` after `plateau_patience` validations in a row without
    a better metric. `constant` leaves the rates alone.
    """
    least = config.min_learning_rate
    match config.schedule:
        case "cosine_restarts":
            return lr_scheduler.CosineAnnealingWarmRestarts(
                optimizer, config.restart_epochs, config.restart_factor, least
            )
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, config.max_epochs, least)
        case "plateau":
            return lr_scheduler.ReduceLROnPlateau(
                optimizer,
                mode="max" if larger_is_better else "min",
                factor=config.plateau_factor,
                # torch lowers the rate at the first bad validation after `patience` bad ones.
                patience=config.plateau_patience - 1,
                threshold=0.0,
                min_lr=least,
            )
        case "constant":
            return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
