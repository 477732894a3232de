"""Begin a training with the weights of an earlier model instead of random ones."""

import dataclasses
import logging
import math
from collections.abc import Mapping

import numpy as np
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.ids import IdMap, find
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.catalogue import model_class
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.models.layers.embedding import ValueTable
from mmctr_pipeline.training.config import TrainingConfig

logger = logging.getLogger(__name__)

_GROWING = {"users": "n_users", "items": "n_items", "tags": "n_tags"}
"""Sizes of the spec that may differ between the earlier model and the new one."""


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """An earlier model whose weights a new one begins with.

    `name` is its version, `state_dict` its weights on the CPU, `vectors` the identity of each
    table of vectors that it was trained on. `id_maps` are those of its dataset. `last_train_day` is
    the last day that it was trained on, or empty if unknown.
    """

    name: str
    state_dict: Mapping[str, torch.Tensor]
    model_config: ModelConfig
    spec: FeatureSpec
    id_maps: Mapping[str, IdMap]
    vectors: Mapping[str, str]
    last_train_day: str = ""

    def n_old_rows(self, dataset: CtrDataset, share: float) -> int:
        """Return how many train rows a training skips: those that the earlier model has seen.

        They come first. In logs by day they are those up to `last_train_day`. If that is unknown or
        no later day has rows, all rows are skipped but the last `share`.
        """
        by_day, n_rows = dataset.train_rows_by_day, len(dataset.train)
        n_new = sum(n for day, n in by_day.items() if day > self.last_train_day > "")
        return n_rows - (n_new or math.ceil(share * n_rows))

    def fits(
        self, model_config: ModelConfig, spec: FeatureSpec, vectors: Mapping[str, str]
    ) -> bool:
        """Tell whether a model can begin with these weights, and log it.

        `vectors` has the identity of each table of vectors that it will be trained on.
        """
        obstacle = self._obstacle(model_config, spec, vectors)
        if obstacle is None:
            logger.info(f"warm start: training begins with the weights of {self.name}")
        else:
            logger.info(f"from scratch, not with the weights of {self.name}: {obstacle}")
        return obstacle is None

    def _obstacle(
        self, model_config: ModelConfig, spec: FeatureSpec, vectors: Mapping[str, str]
    ) -> str | None:
        if model_config != self.model_config:
            return "the settings of the model differ"
        if not model_class(model_config).can_start_warm:
            return f"{model_config.name} fits codes to the data, whose embeddings do not carry over"
        others = [name for name, identity in vectors.items() if self.vectors.get(name) != identity]
        if others:
            return f"it was trained on other {' and '.join(others)} vectors"
        sizes = [
            field.name
            for field in dataclasses.fields(spec)
            if field.name not in _GROWING.values()
            and getattr(spec, field.name) != getattr(self.spec, field.name)
        ]
        if sizes:
            return f"{' and '.join(sizes)} of the data differ"
        return None

    @torch.no_grad()
    def load_into(self, module: CtrModel, spec: FeatureSpec, dataset: CtrDataset) -> None:
        """Copy the weights and the statistics of BatchNorm into a new model.

        Rows of users and items are found by their ids. Those that the earlier model lacks begin
        with its unknown row if it has one, else they keep their initial values. Other statistics
        stay those of the new data.
        """
        rows = {
            "users": self._rows("user_id", dataset, spec.n_users, self.spec.n_users),
            "items": self._rows("item_id", dataset, spec.n_items, self.spec.n_items),
            "tags": np.arange(spec.n_tags),
        }
        for prefix, layer in module.named_modules():
            own = dict(layer.named_parameters(recurse=False))
            # The running statistics of BatchNorm and Dice; other buffers describe the data.
            buffers = layer.named_buffers(recurse=False)
            own |= {name: each for name, each in buffers if name.startswith("running_")}
            for name, target in own.items():
                saved = self.state_dict[f"{prefix}.{name}" if prefix else name].to(target.device)
                if isinstance(layer, ValueTable) and layer.rows_of != "values":
                    n_old = getattr(self.spec, _GROWING[layer.rows_of])
                    _copy_rows(saved, target, rows[layer.rows_of], n_old)
                else:
                    target.copy_(saved)

    def _rows(self, column: str, dataset: CtrDataset, n_rows: int, n_old: int) -> np.ndarray:
        """Return the earlier model's row for each of `n_rows` rows of the dataset, `(R,) int64`.

        A row whose id the earlier model lacks gets a number of at least `n_old`.
        """
        own, earlier = dataset.id_maps.get(column), self.id_maps.get(column)
        if own is None and earlier is None:
            return np.arange(n_rows)
        ids = np.arange(1, n_rows) if own is None else own.ids_at(np.arange(1, n_rows))
        if earlier is None:
            known = (ids >= 1) & (ids < n_old)
            old = np.where(known, ids, n_old)
        else:
            place, known = find(ids, earlier.ids)
            old = np.where(known, earlier.rows[np.where(known, place, 0)], n_old)
        return np.concatenate([[0], old]).astype(np.int64)


def warm_settings(config: TrainingConfig) -> TrainingConfig:
    """Return the settings of a training after a warm start: fewer epochs at lower rates."""
    return dataclasses.replace(
        config,
        max_epochs=min(config.warm_epochs, config.max_epochs),
        learning_rate=config.learning_rate * config.warm_rate,
        multimodal_learning_rate=config.multimodal_learning_rate * config.warm_rate,
        warm_rate=1.0,
    )


def _copy_rows(
    saved: torch.Tensor, target: torch.Tensor, old_row_R: np.ndarray, n_old: int
) -> None:
    """Copy the rows of a table; new rows begin with the unknown row, the last one, if there is one.

    `old_row_R` is the earlier row of each row, `(R,)`; those from `n_old` on do not exist.
    """
    old = torch.from_numpy(old_row_R).to(target.device)
    is_known = old < n_old
    new = torch.arange(len(old), device=target.device)
    target[new[is_known]] = saved[old[is_known]]
    if len(saved) > n_old:
        target[new[~is_known]] = saved[n_old]
        target[len(old) :] = saved[n_old:]
