"""Train models of one configuration on rows of one dataset, also once more for a final fit."""

import dataclasses
import logging

import numpy as np
import torch
from torch import nn

from mmctr_pipeline import metrics
from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, FeatureSpec, ItemFeatures
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.training.batch_source import BatchSource
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.device import seeded, threads_for
from mmctr_pipeline.training.loop import TrainBatches, fit
from mmctr_pipeline.training.losses import loss_on
from mmctr_pipeline.training.ranks import ALONE, Ranks
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.score import score
from mmctr_pipeline.training.stopping import EarlyStopping, FollowSelection, StoppingPolicy
from mmctr_pipeline.training.synced_norm import synchronise
from mmctr_pipeline.training.warm_start import WarmStart

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FinalFit:
    """The training on train and valid rows after selection; no labelled rows are left to test it.

    `train_loss` is the mean over the rows of the last epoch or part of an epoch; `seconds` is the
    total.
    """

    n_epochs: float
    n_rows: int
    train_loss: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class CtrTrainer:
    """Trains models of one configuration on rows of one dataset."""

    dataset: CtrDataset
    items: ItemFeatures
    spec: FeatureSpec
    model_config: ModelConfig
    training_config: TrainingConfig
    device: torch.device
    warm_start: WarmStart | None = None
    ranks: Ranks = ALONE

    def source(self, split: Split, trained_on: bool = False) -> BatchSource:
        """Return a source of batches with the rows of `split`.

        If the model is `trained_on` these rows, each reads click rates that leave out its own fold.
        """
        inputs = split, self.dataset.histories, self.items, self.device
        return BatchSource(*inputs, self.model_config.max_history, trained_on)

    def stopping(self, selection: TrainingHistory | None = None) -> StoppingPolicy:
        """Return what decides which weights are kept, and when training ends.

        These are the weights of the highest AUC on the valid rows, or those after the best epoch of
        `selection`.
        """
        if selection is not None:
            return FollowSelection(selection)
        valid, config = self.dataset.valid, self.training_config
        labels = valid.label
        assert labels is not None
        source = self.source(valid.take(self.ranks.block(len(valid))))

        def validate(module: nn.Module) -> dict[str, float]:
            scores = self.ranks.joined(score(module, source, config.precision), len(valid))
            if not np.isfinite(scores).all():
                return {"valid_auc": np.nan, "valid_log_loss": np.nan}  # this ends the run
            return {
                "valid_auc": metrics.auc(labels, scores),
                "valid_log_loss": metrics.log_loss(labels, scores),
            }

        return EarlyStopping(validate, "valid_auc", config)

    def fit(
        self,
        rows: Split,
        checkpoints: Checkpoints | None = None,
        selection: TrainingHistory | None = None,
    ) -> tuple[CtrModel, TrainingHistory]:
        """Train a new model on `rows`, here or on Ray, and take its statistics from the same rows.

        torch's global random state is left as it was. Errors are those of `training.loop.fit`, and
        those of `training.on_ray.fit_on_ray`.

        Parameters
        ----------
        rows
            Labelled rows.
        checkpoints
            Where to save progress, and to resume from.
        selection
            An earlier run up to whose best epoch to train; by default the valid rows decide.
        """
        if self.training_config.compute == "ray":
            # Imported here because Ray is an extra.
            from mmctr_pipeline.training.on_ray import fit_on_ray

            return fit_on_ray(self, rows, checkpoints, selection)
        return self.fit_here(rows, checkpoints, selection)

    def new_model(self, rows: Split) -> CtrModel:
        """Return an untrained model with the statistics of `rows`, on the device."""
        module = build_model(self.model_config, self.spec).to(self.device)
        module.fit_statistics(self.items, rows, self.dataset.histories)
        return module

    def fit_here(
        self, rows: Split, checkpoints: Checkpoints | None, selection: TrainingHistory | None
    ) -> tuple[CtrModel, TrainingHistory]:
        """Do the work of `fit` in this process, together with the other ranks if there are any."""
        source, config = self.source(self._read_rows(rows), trained_on=True), self.training_config
        with seeded(config.seed, self.device), threads_for(config.batch_size):
            module = self.new_model(rows)
            synchronise(module, self.ranks)
            if self.warm_start is not None:
                self.warm_start.load_into(module, self.spec, self.dataset)
            logger.info(f"{self.model_config.name}: {n_parameters(module):,} parameters")
            history = fit(
                module,
                module.parameter_groups(),
                TrainBatches(
                    n_rows=len(source),
                    epoch=lambda epoch: source.shuffled(
                        config.batch_size, config.seed, epoch, self.ranks
                    ),
                    split=Batch.split,
                    ranks=self.ranks,
                ),
                loss_on(rows, config, self.spec.n_items, self.device),
                self.stopping(selection),
                config,
                checkpoints,
            )
        return module, history

    def _read_rows(self, rows: Split) -> Split:
        """Return the rows that training reads: all of them, or the new ones after a warm start.

        Older rows were read before, and reading them again makes the model memorise them.
        """
        if self.warm_start is None:
            return rows
        share = self.training_config.warm_share
        n_old = self.warm_start.n_old_rows(self.dataset, share)
        logger.info(f"training reads the last {len(rows) - n_old:,} of {len(rows):,} rows")
        return rows.take(np.arange(n_old, len(rows)))

    def final_fit(
        self, selection: TrainingHistory, checkpoints: Checkpoints | None = None
    ) -> tuple[CtrModel, FinalFit]:
        """Train a new model on train and valid rows, up to the best epoch of a selection run.

        `checkpoints` are those of the selection run; its checkpoint is kept.
        """
        train, valid = self.dataset.train, self.dataset.valid
        rows = Split(
            **{
                name: np.concatenate([column, valid.columns[name]])
                for name, column in train.columns.items()
            }
        )
        logger.info(
            f"final fit: {len(rows):,} train and valid rows, {selection.best_epoch:g} epochs, "
            "no validation"
        )
        if self.training_config.calibration != "none":
            logger.info("final fit: the calibration map stays that of the selection run")
        if checkpoints:
            # The folder names the epoch: if a time limit ended selection, a repeated selection may
            # choose another one.
            folder = checkpoints.folder / f"final-fit-{selection.best_epoch:g}"
            checkpoints = dataclasses.replace(checkpoints, folder=folder)
        module, history = self.fit(rows, checkpoints, selection)
        last = history.epochs[-1]
        seconds = sum(record.all_seconds for record in history.epochs)
        return module, FinalFit(last.epoch, len(rows), last.train_loss, seconds)


def n_parameters(module: nn.Module) -> int:
    """Return the number of weights of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
