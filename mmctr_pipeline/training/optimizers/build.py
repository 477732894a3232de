"""The optimisers of a module by configuration, behind one face."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mmctr_pipeline.models.layers.embedding import EmbeddingTable
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers.row_adamw import RowAdamW


class Optimizers:
    """What a training step needs of all optimisers of one module together."""

    def __init__(self, dense: torch.optim.Optimizer | None, rows: RowAdamW | None) -> None:
        self._rows = rows
        self.members = [member for member in (dense, rows) if member is not None]
        self._dense_parameters = (
            [p for group in dense.param_groups for p in group["params"]] if dense else []
        )

    @property
    def learning_rate(self) -> float:
        """Present rate of the first group."""
        return float(self.members[0].param_groups[0]["lr"])

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for member in self.members:
            member.zero_grad()

    def clip(self, max_norm: float) -> None:
        """Scale all gradients down to a global norm of `max_norm`, those of table rows included."""
        leaves = self._rows.gradients() if self._rows else []
        nn.utils.clip_grad_norm_([*self._dense_parameters, *leaves], max_norm)

    def step(self) -> None:
        """Update everything that has a gradient; `count_step` must follow."""
        for member in self.members:
            member.step()

    def count_step(self) -> None:
        """Do what a step needs on the host, where no CUDA graph repeats it."""
        if self._rows:
            self._rows.count_step()

    def flush(self) -> None:
        """Bring the tables up to date: before evaluation, checkpoint and export."""
        if self._rows:
            self._rows.flush()

    def release(self) -> None:
        """Flush and let go of the tables."""
        if self._rows:
            self._rows.release()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of each member; the tables must be up to date."""
        return [member.state_dict() for member in self.members]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Inverse of `state_dict`."""
        for member, state in zip(self.members, states, strict=True):
            member.load_state_dict(state)


def build_optimizers(
    module: nn.Module, groups: Mapping[str, Sequence[nn.Parameter]], config: TrainingConfig
) -> Optimizers:
    """Return the configured optimisers over the parameter groups of `module`.

    These are `main`, `embedding` and `multimodal`, each with its own rate and decay. With
    `row_adamw`, embedding tables are updated row by row and the rest by dense AdamW, which moves
    every weight alike. Raises `ValueError` for a group of another name.
    """
    rates = {
        "main": (config.learning_rate, config.weight_decay),
        "embedding": (config.learning_rate, config.embedding_weight_decay),
        "multimodal": (config.multimodal_learning_rate, config.multimodal_weight_decay),
    }
    unknown = [name for name in groups if name not in rates]
    if unknown:
        raise ValueError(
            f"no learning rate for parameter group {', '.join(unknown)}; known: {', '.join(rates)}"
        )
    tables: dict[int, EmbeddingTable] = {}
    if config.optimizer == "row_adamw":
        found = (layer for layer in module.modules() if isinstance(layer, EmbeddingTable))
        for table in found:
            if tables.setdefault(id(table.weight), table) is not table:
                raise ValueError(
                    "two embedding tables share one weight, which row_adamw cannot train: use one "
                    "table twice, or optimizer adamw"
                )
    device = next(module.parameters()).device
    on_cuda = device.type == "cuda"
    dense, by_row = [], []
    for name, parameters in groups.items():
        rate, decay = rates[name]
        described = {"name": name, "weight_decay": decay}
        rest = [p for p in parameters if id(p) not in tables]
        if rest:
            dense.append({**described, "lr": _rate(rate, device), "params": rest})
        of_group = [tables[id(p)] for p in parameters if id(p) in tables]
        if of_group:
            by_row.append({**described, "lr": _rate(rate, device), "tables": of_group})
    return Optimizers(
        _DENSE[config.optimizer](dense, fused=True, capturable=on_cuda) if dense else None,
        RowAdamW(by_row) if by_row else None,
    )


def _rate(rate: float, device: torch.device) -> torch.Tensor | float:
    """Return the rate as a group holds it; a new tensor each time on CUDA.

    A captured graph reads the rate where it lies, so that a schedule has to write it there; were
    it shared by two optimisers, each one's schedule would move it.
    """
    return torch.tensor(rate, device=device) if device.type == "cuda" else rate


_DENSE = {
    "row_adamw": torch.optim.AdamW,
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
}
