"""Weight averaging: a mean of a module's weights over a run, often better than its last weights."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

SNAPSHOTS_PER_EPOCH = 16
"""Snapshots per epoch that enter the average; each one reads every weight of the model."""


class WeightAverage:
    """Mean of the weights so far, in which late weights count most.

    Weights reached after a share s of the run count as `s ** power`. This is polynomial-decay
    averaging (Shamir and Zhang 2013, arXiv 1212.1824). At a constant learning rate, the weights of
    the last epochs scatter around a point that is better than any of them. The first epochs, which
    are far off, count little, and the length of the run need not be known. Statistics of BatchNorm
    are averaged in the same way; tensors without floating-point numbers stay as they are. A power
    of 0 turns averaging off.
    """

    def __init__(self, module: nn.Module, power: float, rows_per_epoch: int) -> None:
        self._module, self._power, self._rows_per_epoch = module, power, rows_per_epoch
        self._mean: dict[str, torch.Tensor] = {}
        self._n_rows = self._n_snapshots = 0

    def advance(self, n_rows: int) -> None:
        """Count a step on `n_rows` rows, and take a snapshot if one is due."""
        if self._power == 0:
            return
        before = SNAPSHOTS_PER_EPOCH * self._n_rows // self._rows_per_epoch
        self._n_rows += n_rows
        if SNAPSHOTS_PER_EPOCH * self._n_rows // self._rows_per_epoch > before:
            self._add_snapshot()

    def _add_snapshot(self) -> None:
        self._n_snapshots += 1
        weights = _averaged_tensors(self._module)
        if not self._mean:
            self._mean = {name: weight.clone() for name, weight in weights.items()}
            return
        share = (1 + self._power) / (self._n_snapshots + self._power)
        for name, mean in self._mean.items():
            mean.lerp_(weights[name], share)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Give the module the average, if there is one, within the block."""
        weights = _averaged_tensors(self._module)
        own_weights = {name: weights[name].clone() for name in self._mean}
        try:
            _copy(self._mean, weights)
            yield
        finally:
            _copy(own_weights, weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the counts."""
        return {"mean": self._mean, "n_rows": self._n_rows, "n_snapshots": self._n_snapshots}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._mean = dict(state["mean"])
        self._n_rows, self._n_snapshots = state["n_rows"], state["n_snapshots"]


def _averaged_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the floating-point tensors of the module's state, sharing its memory."""
    state = module.state_dict().items()
    return {name: tensor for name, tensor in state if tensor.is_floating_point()}


def _copy(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in source.items():
        target[name].copy_(tensor)
