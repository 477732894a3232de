"""Settings of training: loss, optimiser, schedule, stopping."""

import dataclasses

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Settings):
    """How a model is trained; the defaults are recipe A's."""

    seed: int = setting(42, "seed of initialisation, batch order and dropout", ge=0)
    max_epochs: int = setting(30, "epochs at most", ge=1)
    patience: int = setting(7, "epochs without a better validation AUC before stopping", ge=1)
    batch_size: int = setting(2048, "rows per step", ge=2)
    label_smoothing: float = setting(
        0.05, "s in the target y * (1 - s) + s / 2 of the binary cross-entropy", ge=0, lt=1
    )
    learning_rate: float = setting(2e-3, "AdamW's learning rate", gt=0)
    weight_decay: float = setting(1e-4, "AdamW's decoupled weight decay", ge=0)
    multimodal_learning_rate: float = setting(
        5e-4, "learning rate of the multimodal transform", gt=0
    )
    multimodal_weight_decay: float = setting(1e-5, "weight decay of the multimodal transform", ge=0)
    schedule: str = setting(
        "cosine_restarts",
        "learning rate per epoch: cosine annealing with warm restarts, or constant",
        choices=("cosine_restarts", "constant"),
    )
    restart_epochs: int = setting(5, "epochs of the first cosine cycle (T_0)", ge=1)
    restart_factor: int = setting(2, "growth of each further cycle (T_mult)", ge=1)
    min_learning_rate: float = setting(1e-6, "end of each cosine cycle (eta_min)", ge=0)
    gradient_clip_norm: float = setting(1.0, "global norm at which gradients are clipped", gt=0)
