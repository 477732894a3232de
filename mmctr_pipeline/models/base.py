"""What every CTR model offers to the training engine and to scoring."""

import abc

import torch
from torch import nn

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.layers.item_vectors import VectorProjection


class CtrModel(nn.Module, abc.ABC):
    """A model that gives each row of a ragged batch one logit."""

    shares_histories = False
    """Whether `forward` takes batches in which rows share a history (`Batch.history_row_B`)."""

    @abc.abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,) float32`; the click probability is their sigmoid."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters, each once, by the group whose rates they follow.

        Unless a model says otherwise these are `embedding` (all tables and, as in FuxiCTR, the
        matrices of `VectorProjection`) and `main` (the rest).
        """
        layers = [m for m in self.modules() if isinstance(m, nn.Embedding | VectorProjection)]
        apart = {id(parameter) for layer in layers for parameter in layer.parameters()}
        groups: dict[str, list[nn.Parameter]] = {"main": [], "embedding": []}
        for parameter in self.parameters():
            groups["embedding" if id(parameter) in apart else "main"].append(parameter)
        return {name: parameters for name, parameters in groups.items() if parameters}

    @abc.abstractmethod
    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Store, as buffers, what the model must know before training.

        That is of the items what their vectors vary by, and of the train rows which ids they hold.
        Nothing else is to be read here, valid and test rows least of all; `train.history` points
        into `histories`.
        """
