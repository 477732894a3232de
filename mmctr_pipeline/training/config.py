"""Settings of training: stopping, loss, optimiser, schedule, number format."""

import dataclasses
from typing import Literal

from mmctr_pipeline.settings import MAX_SEED, Precision, Settings, setting


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Settings):
    """Training settings; the defaults are recipe A's, except for the number format.

    `row_adamw` moves weights as recipe A's AdamW does.
    """

    seed: int = setting(42, "seed of initialisation, batch order and dropout", ge=0, le=MAX_SEED)
    max_epochs: int = setting(30, "most epochs", ge=1, le=10_000)
    patience: int = setting(
        7, "epochs without a better validation AUC before stopping", ge=1, le=10_000
    )
    max_minutes: float = setting(
        0.0,
        "limit on minutes of training and validation; 0 for none. It may end the run within an "
        "epoch, in time for a last validation; if that is also the first, it may exceed the limit, "
        "as its duration is unknown. A final fit is not counted",
        ge=0,
        le=525_600,
    )
    final_fit: bool = setting(
        False,
        "after selection, train once more from the beginning on train and valid rows, up to the "
        "best epoch; the metrics stay those of the selection run",
    )
    warm_start: Literal["auto", "champion", "never"] = setting(
        "auto",
        "champion: begin with the champion's weights where model and vectors are the same, else "
        "from scratch, and the log says which; never: from scratch; auto: champion for logs by "
        "day, never for other data",
    )
    warm_epochs: int = setting(
        1, "most epochs of a training that begins with the champion's weights", ge=1, le=10_000
    )
    warm_share: float = setting(
        0.05,
        "share of the train rows that a training with the champion's weights reads: the last ones. "
        "In logs by day it reads the days after those of the champion instead, if there are any",
        gt=0,
        le=1,
    )
    warm_rate: float = setting(0.2, "factor of the learning rates for such a training", gt=0, le=1)
    validations_per_epoch: int = setting(
        1, "validations per epoch, evenly spaced; at most one per batch", ge=1, le=10_000
    )
    batch_size: int = setting(2048, "rows per step", ge=2, le=1 << 20)
    compute: Literal["local", "ray"] = setting(
        "local",
        "local: train in this process; ray: on several processes (workers) of the Ray cluster that "
        "RAY_ADDRESS names, by default of this machine; needs the extra ray",
    )
    workers: int = setting(
        2,
        "with compute ray, processes that divide each batch; each has a GPU if there are enough",
        ge=1,
        le=1024,
    )
    precision: Precision = setting(
        "auto",
        "number format of matrix products: bfloat16, float32, or auto (bfloat16 if the hardware "
        "multiplies in it); weights, optimiser and loss stay float32",
    )
    label_smoothing: float = setting(
        0.05, "s in the target y * (1 - s) + s / 2 of the cross-entropy", ge=0, lt=1
    )
    pairwise_weight: float = setting(
        0.0,
        "w in the loss (1 - w) * cross-entropy + w * pairwise loss, which ranks each clicked row "
        "above rows without a click",
        ge=0,
        le=1,
    )
    joint_weight: float = setting(
        0.0,
        "weight of JRC's contrast of rows with equal labels; the cross-entropy's weight is lowered "
        "by as much",
        ge=0,
        le=1,
    )
    in_batch_negatives: float | Literal["auto"] = setting(
        0.0,
        "share of the rows without a click that get the target of another row in each step; for "
        "negatives drawn at random, not for items that a user saw and skipped; auto: 1 or 0, "
        "depending on what the train rows look like",
        ge=0,
        le=1,
    )
    calibration: Literal["none", "monotone"] = setting(
        "none",
        "monotone: after training, fit a monotone map of the logits on half of the valid users, "
        "which makes probabilities match shares of clicks and keeps the order of rows; log-loss "
        "and calibration error are then measured on the other half",
    )
    optimizer: Literal["row_adamw", "adamw", "adam"] = setting(
        "row_adamw",
        "row_adamw (AdamW that touches only the table rows of the batch and catches up on missed "
        "updates), or adamw or adam (which touch every weight in every step)",
    )
    learning_rate: float = setting(2e-3, "learning rate", gt=0, le=10)
    weight_decay: float = setting(
        1e-4, "decoupled weight decay; with adam it is added to the gradient (L2)", ge=0, le=1e3
    )
    embedding_weight_decay: float = setting(
        0.0,
        "weight decay of embedding tables and of vector_projection's matrices, in all models but "
        "improved_mmctr; applied like weight_decay",
        ge=0,
        le=1e3,
    )
    multimodal_learning_rate: float = setting(
        5e-4, "learning rate of the multimodal transform (improved_mmctr only)", gt=0, le=10
    )
    multimodal_weight_decay: float = setting(
        1e-5, "weight decay of the multimodal transform (improved_mmctr only)", ge=0, le=1e3
    )
    schedule: Literal["cosine_restarts", "cosine", "plateau", "constant"] = setting(
        "cosine_restarts",
        "how the learning rate changes. cosine and cosine_restarts: cosine annealing by epoch, "
        "without and with warm restarts; plateau: lower after each plateau of the validation "
        "metric; constant: not at all",
    )
    restart_epochs: int = setting(5, "epochs of the first cosine cycle (T_0)", ge=1, le=10_000)
    restart_factor: int = setting(
        2, "how many times as long each cycle is as the one before (T_mult)", ge=1, le=100
    )
    min_learning_rate: float = setting(1e-6, "lowest rate of a schedule (eta_min)", ge=0, le=10)
    plateau_factor: float = setting(0.5, "factor for the rates after a plateau", gt=0, lt=1)
    plateau_patience: int = setting(
        1, "validations in a row without a better metric that count as a plateau", ge=1, le=10_000
    )
    weight_averaging: float = setting(
        0.0,
        "power p of the average of weights that is validated and kept: weights after a share s of "
        "the run count as s ** p; 0 turns averaging off",
        ge=0,
        le=1e3,
    )
    gradient_clip_norm: float = setting(1.0, "global norm to clip gradients at", gt=0, le=1e9)
    cuda_graph: bool = setting(
        True, "on CUDA, capture the training step as a graph and replay it; no effect elsewhere"
    )

    @property
    def redrawn_share(self) -> float:
        """`in_batch_negatives` as a number; auto counts as 0 until the data have decided it."""
        return 0.0 if self.in_batch_negatives == "auto" else self.in_batch_negatives

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compute == "ray" and self.batch_size % self.workers:
            raise self.invalid(
                "batch_size",
                f"is {self.batch_size}; it must be a multiple of workers "
                f"({self.workers}), as each has an equal share of a batch",
            )
        if self.pairwise_weight + self.joint_weight > 1:
            raise self.invalid(
                "joint_weight",
                f"is {self.joint_weight}; together with pairwise_weight ({self.pairwise_weight}) "
                "it must be at most 1, as the rest is the weight of the cross-entropy",
            )
        if self.optimizer == "adam":  # It adds the decay to the gradient instead.
            return
        for rate, decay in (
            ("learning_rate", "weight_decay"),
            ("learning_rate", "embedding_weight_decay"),
            ("multimodal_learning_rate", "multimodal_weight_decay"),
        ):
            share = getattr(self, rate) * getattr(self, decay)
            if share >= 1:
                raise self.invalid(
                    decay,
                    f"is {getattr(self, decay)}; times {rate} ({getattr(self, rate)}) it must be "
                    "below 1, as each step takes that share off the weights",
                )
