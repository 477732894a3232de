"""The configured optimisers of a module, behind one interface."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mmctr_pipeline.models.layers.embedding import EmbeddingTable
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers.row_adamw import RowAdamW
from mmctr_pipeline.training.optimizers.schedules import build_scheduler
from mmctr_pipeline.training.ranks import Ranks


class Optimizers:
    """All optimisers of one module, with their learning-rate schedules.

    With `row_adamw`, embedding tables are updated row by row and the rest by dense AdamW; every
    weight moves as under dense AdamW alone.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Mapping[str, Sequence[nn.Parameter]],
        config: TrainingConfig,
        larger_is_better: bool = True,
    ) -> None:
        """Build the optimisers.

        Raises `ValueError` for a group with an unknown name, and for two tables that share a
        weight.

        Parameters
        ----------
        module
            The module, on its device.
        groups
            The module's parameters by group. `main`, `embedding` and `multimodal` each have their
            own rate and decay.
        config
            Optimiser, rates, decays and schedule.
        larger_is_better
            Direction of the validation metric, for the schedule `plateau`.
        """
        device = next(module.parameters()).device
        on_cuda = device.type == "cuda"
        dense, rows = _settings(module, groups, config, device)
        dense_class = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        self._dense = dense_class(dense, fused=True, capturable=on_cuda) if dense else None
        self._rows = RowAdamW(rows) if rows else None
        self.members = [member for member in (self._dense, self._rows) if member is not None]
        self._schedules = [build_scheduler(m, config, larger_is_better) for m in self.members]
        self._stateful: list[Any] = [*self.members, *self._schedules]

    @property
    def learning_rate(self) -> float:
        """Current rate of the first group."""
        return float(self.members[0].param_groups[0]["lr"])

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for member in self.members:
            member.zero_grad()

    @property
    def tables(self) -> set[nn.Parameter]:
        """Weights that are updated row by row."""
        groups = self._rows.param_groups if self._rows else []
        return {weight for group in groups for weight in group["params"]}

    def share_gradients(self, ranks: Ranks) -> None:
        """Merge the gradients of table rows over all ranks; those of other weights are equal."""
        if self._rows and ranks.count > 1:
            self._rows.share_gradients(ranks)

    def clip(self, max_norm: float) -> torch.Tensor:
        """Scale all gradients, also those of table rows, to a global norm of at most `max_norm`.

        Returns the norm before clipping, a scalar on the device.
        """
        leaves = self._rows.gradients() if self._rows else []
        groups = self._dense.param_groups if self._dense else []
        leaves = [*(parameter for group in groups for parameter in group["params"]), *leaves]
        return nn.utils.clip_grad_norm_(leaves, max_norm)

    def step(self) -> None:
        """Update everything that has a gradient; call `count_step` afterwards."""
        for member in self.members:
            member.step()

    def count_step(self) -> None:
        """Do the part of a step that runs on the host, which a CUDA graph does not replay."""
        if self._rows:
            self._rows.count_step()

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        """Return all tensors that `step` changes, except the module's, by their kind."""
        tensors = self._rows.tensors() if self._rows else {}
        for state in self._dense.state.values() if self._dense else ():
            for name, tensor in state.items():
                tensors.setdefault(name, []).append(tensor)
        return tensors

    def after_validation(self, value: float, epoch_ended: bool) -> None:
        """Set the rates that follow a validation whose deciding metric was `value`."""
        for schedule in self._schedules:
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(value)
            elif epoch_ended:
                schedule.step()

    def release(self) -> None:
        """Bring the tables up to date and stop serving them."""
        if self._rows:
            self._rows.release()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of each optimiser and each schedule."""
        return [part.state_dict() for part in self._stateful]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Restore what `state_dict` returned."""
        for part, state in zip(self._stateful, states, strict=True):
            part.load_state_dict(state)


def _settings(
    module: nn.Module,
    groups: Mapping[str, Sequence[nn.Parameter]],
    config: TrainingConfig,
    device: torch.device,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the groups of the dense optimiser and those of `RowAdamW`."""
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
    by_row = config.optimizer == "row_adamw"
    served = [layer for layer in module.modules() if by_row and isinstance(layer, EmbeddingTable)]
    tables = {table.weight: table for table in served}
    if len(tables) < len(served):
        raise ValueError(
            "two embedding tables share one weight, which row_adamw cannot train; use the same "
            "table in both places, or set optimizer to adamw"
        )
    dense: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for name, parameters in groups.items():
        rate, decay = rates[name]
        for kind, members, target in (
            ("params", [p for p in parameters if p not in tables], dense),
            ("tables", [tables[p] for p in parameters if p in tables], rows),
        ):
            if members:
                # On CUDA the rate is a tensor, which schedules write and a captured graph reads.
                # With one tensor for both optimisers, both schedules would move it.
                own_rate = torch.tensor(rate, device=device) if device.type == "cuda" else rate
                target.append({"name": name, "lr": own_rate, "weight_decay": decay, kind: members})
    return dense, rows
