"""The interface that CTR models have for training and scoring, and their initial weights."""

import abc
from collections.abc import Iterable

import torch
from torch import nn

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.layers.vector_inputs import VectorProjection


class CtrModel(nn.Module, abc.ABC):
    """A model that gives each row of a ragged batch one logit."""

    shares_histories = False
    """True if `forward` takes batches in which rows share a history (`Batch.history_row_B`)."""

    shares_one_history = False
    """True if `forward` takes batches in which all rows share the same history."""

    can_start_warm = True
    """Whether a model of new data can begin with the weights of one of earlier data."""

    @abc.abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,) float32`; the click probability is their sigmoid."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters, each once, by the group that sets their learning rate and decay.

        By default the groups are `embedding` (all tables and, as in FuxiCTR, the matrices of
        `VectorProjection`) and `main` (the rest).
        """
        tables = [m for m in self.modules() if isinstance(m, nn.Embedding | VectorProjection)]
        return self._with_group("embedding", tables)

    def _with_group(self, name: str, layers: Iterable[nn.Module]) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of `layers` as group `name` and the others as `main`."""
        chosen = {id(parameter) for layer in layers for parameter in layer.parameters()}
        groups: dict[str, list[nn.Parameter]] = {"main": [], name: []}
        for parameter in self.parameters():
            groups[name if id(parameter) in chosen else "main"].append(parameter)
        return {name: parameters for name, parameters in groups.items() if parameters}

    @abc.abstractmethod
    def fit_statistics(self, items: ItemFeatures, train: Split, histories: Ragged) -> None:
        """Store statistics of the items and the train rows as buffers, before training.

        Valid and test rows must not be read. `train.history` indexes `histories`.
        """


def initialise(module: nn.Module, table_std: float | None = 1e-4) -> None:
    """Initialise linear layers Xavier-normal with zero biases, and tables normal.

    These are FuxiCTR's defaults, with which the published results were obtained. With `table_std`
    None tables are Xavier-normal too. Padding rows are zero.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            if table_std is None:
                nn.init.xavier_normal_(layer.weight)
            else:
                nn.init.normal_(layer.weight, std=table_std)
            if layer.padding_idx is not None:
                nn.init.zeros_(layer.weight[layer.padding_idx])
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
