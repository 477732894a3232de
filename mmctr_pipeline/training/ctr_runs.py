"""Runs of the loop over rows of a CTR dataset: the one that selects and the final fit after it."""

import dataclasses
import logging

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, FeatureSpec, ItemFeatures
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.training.batches import BatchSource
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.device import seeded, threads_for
from mmctr_pipeline.training.loop import TrainBatches, Validation, fit
from mmctr_pipeline.training.losses import (
    in_batch_negatives,
    pairwise_loss,
    smoothed_binary_cross_entropy,
)
from mmctr_pipeline.training.run_state import TrainingHistory

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FinalFit:
    """The training on train and valid rows that came after selection; nothing measures it.

    `train_loss` is the mean over rows of the last epoch or part of one, `seconds` the time in all.
    """

    n_epochs: float
    n_rows: int
    train_loss: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class CtrRuns:
    """What the runs of one configuration on one dataset have in common."""

    histories: Ragged
    items: ItemFeatures
    spec: FeatureSpec
    model_config: ModelConfig
    training_config: TrainingConfig
    device: torch.device

    def source(self, split: Split) -> BatchSource:
        """Return where batches of the rows of `split` come from."""
        longest = self.model_config.max_history
        return BatchSource(split, self.histories, self.items, self.device, longest)

    def fit(
        self,
        train: Split,
        validation: Validation,
        checkpoints: Checkpoints | None = None,
    ) -> tuple[CtrModel, TrainingHistory]:
        """Train a new model on the rows of `train`, its statistics too being of these alone.

        torch's global random state is left as it was; errors as `training.loop.fit`.
        """
        source, config = self.source(train), self.training_config
        with seeded(config.seed, self.device), threads_for(config.batch_size):
            module = build_model(self.model_config, self.spec).to(self.device)
            module.fit_statistics(self.items, train, self.histories)
            n_parameters = sum(parameter.numel() for parameter in module.parameters())
            logger.info(f"{self.model_config.name}: {n_parameters:,} parameters")
            if config.in_batch_negatives:
                logger.info(
                    f"in each step {config.in_batch_negatives:.0%} of the rows without a click get "
                    "the target of another row (training.in_batch_negatives)"
                )
            history = fit(
                module,
                module.parameter_groups(),
                TrainBatches(
                    n_rows=len(source),
                    epoch=lambda epoch: source.shuffled(config.batch_size, config.seed, epoch),
                    split=Batch.split,
                ),
                self._loss,
                validation,
                config,
                checkpoints,
            )
        return module, history

    def final_fit(
        self,
        rows: Split,
        validation: Validation,
        selection: TrainingHistory,
        checkpoints: Checkpoints | None = None,
    ) -> tuple[CtrModel, FinalFit]:
        """Train a new model on `rows` as the selection run was trained, up to its best epoch.

        `validation` and `checkpoints` are those of that run, whose own checkpoint stays.
        """
        logger.info(
            f"final fit: {len(rows):,} train and valid rows, {selection.best_epoch:g} epochs, "
            "no validation"
        )
        if checkpoints:
            # Where time ends the selection run, it may choose another epoch when it is repeated.
            folder = checkpoints.folder / f"final-fit-{selection.best_epoch:g}"
            checkpoints = dataclasses.replace(checkpoints, folder=folder)
        following = dataclasses.replace(validation, follows=selection)
        module, history = self.fit(rows, following, checkpoints)
        last = history.epochs[-1]
        seconds = sum(record.all_seconds for record in history.epochs)
        return module, FinalFit(last.epoch, len(rows), last.train_loss, seconds)

    def _loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        if self.training_config.in_batch_negatives > 0:
            batch = in_batch_negatives(batch, self.training_config.in_batch_negatives)
        assert batch.label_B is not None
        logits_B, weight = module(batch).float(), self.training_config.pairwise_weight
        pointwise = smoothed_binary_cross_entropy(
            logits_B, batch.label_B, self.training_config.label_smoothing
        )
        if weight == 0:
            return pointwise
        return (1 - weight) * pointwise + weight * pairwise_loss(logits_B, batch.label_B)


def joined(first: Split, second: Split) -> Split:
    """Return the rows of both splits, which are of one dataset and have labels."""
    columns = ("user_id", "item_id", "history", "likes_level", "views_level", "label")
    return Split(
        **{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in columns}
    )
