"""The average of a module's weights over a run, which is better than the last of them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

SNAPSHOTS_PER_EPOCH = 16
"""How often an epoch's weights enter the average: a snapshot reads every weight of the model."""


class WeightAverage:
    """Mean of the weights so far, those after a share s of the run counting as `s ** power`.

    This is polynomial-decay averaging (Shamir and Zhang 2013, arXiv 1212.1824): at a constant
    learning rate the steps of the last epochs scatter around a better point than any of them is.
    The first epochs, which are far off, count little, and no length of the run has to be known. The
    statistics of BatchNorm are averaged alike; whatever is no floating-point number stays as the
    module has it. A power of 0 means that nothing is averaged.
    """

    def __init__(
        self,
        module: nn.Module,
        power: float,
        rows_per_epoch: int,
        bring_up_to_date: Callable[[], None],
    ) -> None:
        """`bring_up_to_date` is called before the weights are read."""
        self._module, self._power = module, power
        self._rows_per_epoch, self._bring_up_to_date = rows_per_epoch, bring_up_to_date
        self._mean: dict[str, torch.Tensor] = {}
        self._n_rows = self._n_snapshots = 0

    def advance(self, n_rows: int) -> None:
        """Count a step on `n_rows` rows; it may be one after which a snapshot is due."""
        if self._power == 0:
            return
        self._n_rows += n_rows
        n_due = SNAPSHOTS_PER_EPOCH * self._n_rows // self._rows_per_epoch
        before = SNAPSHOTS_PER_EPOCH * (self._n_rows - n_rows) // self._rows_per_epoch
        if n_due > before:
            self._bring_up_to_date()
            self._add()

    def _add(self) -> None:
        self._n_snapshots += 1
        weights = _averaged(self._module)
        if not self._mean:
            self._mean = {name: weight.clone() for name, weight in weights.items()}
            return
        share = (1 + self._power) / (self._n_snapshots + self._power)
        for name, mean in self._mean.items():
            mean.lerp_(weights[name], share)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module have the average within the block, if there is one."""
        weights = _averaged(self._module)
        kept = {name: weights[name].clone() for name in self._mean}
        try:
            _write(self._mean, weights)
            yield
        finally:
            _write(kept, weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"mean": self._mean, "n_rows": self._n_rows, "n_snapshots": self._n_snapshots}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._mean = dict(state["mean"])
        self._n_rows, self._n_snapshots = state["n_rows"], state["n_snapshots"]


def _averaged(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the floating-point tensors of the module's state, which share its memory."""
    return {n: t.detach() for n, t in module.state_dict().items() if t.is_floating_point()}


def _write(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in source.items():
        target[name].copy_(tensor)
