"""What every CTR model offers to the training engine and to scoring."""

import abc

import torch
from torch import nn

from mmctr_pipeline.models.batch import Batch, ItemFeatures


class CtrModel(nn.Module, abc.ABC):
    """A model that gives each row of a ragged batch one logit."""

    @abc.abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,) float32`; the click probability is their sigmoid."""

    @abc.abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters, each once, by the group whose learning rate they follow."""

    @abc.abstractmethod
    def fit_statistics(self, items: ItemFeatures) -> None:
        """Store, as buffers, what the model must know of the item vectors before training."""
