"""Settings of training: loss, optimiser, schedule, stopping, number format."""

import dataclasses
from typing import Literal

from mmctr_pipeline.settings import Precision, Settings, setting


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Settings):
    """How a model is trained; the defaults are recipe A's, but for the number format.

    `row_adamw` moves weights as recipe A's AdamW does.
    """

    seed: int = setting(42, "seed of initialisation, batch order and dropout", ge=0)
    max_epochs: int = setting(30, "epochs at most", ge=1)
    patience: int = setting(7, "epochs without a better validation AUC before stopping", ge=1)
    max_minutes: float = setting(
        0.0,
        "minutes of training and validation, which end then, if need be within an epoch and with a "
        "last validation; 0 sets no limit. On top come a last validation that is the first one, as "
        "nothing tells how long it takes, and a final fit",
        ge=0,
    )
    final_fit: bool = setting(
        False,
        "after selection, train once more from the beginning, on train and valid rows, for as many "
        "epochs as were best; the metrics stay those of the selection run",
    )
    validations_per_epoch: int = setting(
        1, "validations per epoch, evenly spread over its rows; at most one after each batch", ge=1
    )
    batch_size: int = setting(2048, "rows per step", ge=2)
    precision: Precision = setting(
        "auto",
        "number format of matrix products: bfloat16, float32, or auto, which is bfloat16 where the "
        "device multiplies in it; weights, optimiser and loss stay float32",
    )
    label_smoothing: float = setting(
        0.05, "s in the target y * (1 - s) + s / 2 of the binary cross-entropy", ge=0, lt=1
    )
    pairwise_weight: float = setting(
        0.0,
        "w in the loss (1 - w) * cross-entropy + w * pairwise loss, which asks a clicked row to "
        "score above another that was not",
        ge=0,
        le=1,
    )
    in_batch_negatives: float = setting(
        0.0,
        "share of the rows without a click that each step gives the target of another row; for "
        "negatives that were drawn at random, not those that somebody saw and passed over",
        ge=0,
        le=1,
    )
    optimizer: Literal["row_adamw", "adamw", "adam"] = setting(
        "row_adamw",
        "row_adamw (AdamW that touches the table rows of the batch alone and catches up what they "
        "missed), adamw or adam (which touch every weight in every step)",
    )
    learning_rate: float = setting(2e-3, "learning rate", gt=0)
    weight_decay: float = setting(
        1e-4, "decoupled weight decay; with adam, the same added to the gradient (L2)", ge=0
    )
    embedding_weight_decay: float = setting(
        0.0,
        "weight decay of embedding tables and of vector_projection's matrices, in models that keep "
        "these apart (all but improved_mmctr); decoupled or not as weight_decay is",
        ge=0,
    )
    multimodal_learning_rate: float = setting(
        5e-4, "learning rate of the multimodal transform (improved_mmctr alone)", gt=0
    )
    multimodal_weight_decay: float = setting(
        1e-5, "weight decay of the multimodal transform (improved_mmctr alone)", ge=0
    )
    schedule: Literal["cosine_restarts", "cosine", "plateau", "constant"] = setting(
        "cosine_restarts",
        "learning rate: cosine annealing per epoch with or without warm restarts, lowered where "
        "validation stands still (plateau), or constant",
    )
    restart_epochs: int = setting(5, "epochs of the first cosine cycle (T_0)", ge=1)
    restart_factor: int = setting(2, "growth of each further cycle (T_mult)", ge=1)
    min_learning_rate: float = setting(1e-6, "lowest rate of a schedule (eta_min)", ge=0)
    plateau_factor: float = setting(0.5, "what a plateau multiplies the rates by", gt=0, lt=1)
    plateau_patience: int = setting(
        1, "validations in a row without a better metric that make a plateau", ge=1
    )
    weight_averaging: float = setting(
        0.0,
        "what is validated and kept is a mean of the weights so far, those after a share s of the "
        "run counting as s to this power; 0 keeps the weights as they are",
        ge=0,
    )
    gradient_clip_norm: float = setting(1.0, "global norm at which gradients are clipped", gt=0)
    cuda_graph: bool = setting(
        True, "on CUDA, capture the training step as a graph and replay it; elsewhere no effect"
    )
