"""Optimisers by configuration."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from mmctr_pipeline.training.config import TrainingConfig


def build_optimizer(
    groups: Mapping[str, Iterable[nn.Parameter]], config: TrainingConfig
) -> torch.optim.AdamW:
    """Return AdamW over the groups `main` and `multimodal`, each with its own rate and decay.

    Raises `ValueError` for a group of another name.
    """
    rates = {
        "main": (config.learning_rate, config.weight_decay),
        "multimodal": (config.multimodal_learning_rate, config.multimodal_weight_decay),
    }
    unknown = [name for name in groups if name not in rates]
    if unknown:
        raise ValueError(
            f"no learning rate for parameter group {', '.join(unknown)}; known: {', '.join(rates)}"
        )
    return torch.optim.AdamW(
        [
            {
                "params": list(group),
                "name": name,
                "lr": rates[name][0],
                "weight_decay": rates[name][1],
            }
            for name, group in groups.items()
        ],
        # One pass over each table instead of a dozen: the dense tables dominate a step.
        fused=True,
    )
