"""AdamW over embedding tables that touches the rows of the batch alone."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mmctr_pipeline.models.layers.embedding import EmbeddingTable, distinct_rows
from mmctr_pipeline.training.optimizers.catch_up import CatchUp

_STEPS_BETWEEN_FLUSHES = 4096
_FLUSH_VALUES = 1 << 22
"""Weights that a flush brings up to date at a time: its temporary arrays stay small."""


@dataclasses.dataclass(frozen=True)
class _Lookup:
    """Distinct rows `(U,)` that were served, and the leaf `(U, D)` that gathers their gradient.

    `m_UD` and `v_UD` are their moments as of the steps `last_U` that updated them last.
    """

    row_U: torch.Tensor
    live_UD: torch.Tensor
    m_UD: torch.Tensor
    v_UD: torch.Tensor
    last_U: torch.Tensor


class _ServedTable:
    """One table with its moments; every row remembers the step at which it was last updated."""

    def __init__(self, table: EmbeddingTable, clock: CatchUp) -> None:
        self.table, self.clock = table, clock
        self.weight = table.weight
        self.m = torch.zeros_like(self.weight)
        self.v = torch.zeros_like(self.weight)
        self.last = torch.zeros(len(self.weight), dtype=torch.int64, device=self.weight.device)
        self.lookups: list[_Lookup] = []

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of `ids` as dense AdamW would have them now (see `RowServer`)."""
        row_U, slot_N = distinct_rows(ids)
        lookup = self._look_up(row_U)
        live_UD = lookup.live_UD
        if torch.is_grad_enabled():
            live_UD.requires_grad_()
            self.lookups.append(lookup)
        if ids.device.type == "cpu":
            return nn.functional.embedding(slot_N, live_UD)
        return live_UD.index_select(0, slot_N)

    def merge_lookups(self) -> None:
        """Make one look-up of several, so that every row has one gradient, padding none."""
        if len(self.lookups) > 1:
            self._merge()
        for lookup in self.lookups:
            if (grad := lookup.live_UD.grad) is not None:  # padding is not trained
                grad.mul_((lookup.row_U != 0).to(grad.dtype).unsqueeze(1))

    def _merge(self) -> None:
        row_U, slot_N = distinct_rows(torch.cat([lookup.row_U for lookup in self.lookups]))
        merged = self._look_up(row_U)
        grads = [
            torch.zeros_like(lookup.live_UD) if lookup.live_UD.grad is None else lookup.live_UD.grad
            for lookup in self.lookups
        ]
        total_UD = torch.zeros_like(merged.live_UD).index_add_(0, slot_N, torch.cat(grads))
        merged.live_UD.grad = total_UD
        self.lookups = [merged]

    @torch.no_grad()
    def _look_up(self, row_U: torch.Tensor) -> _Lookup:
        weight, m, v, last = (
            t.index_select(0, row_U) for t in (self.weight, self.m, self.v, self.last)
        )
        return _Lookup(row_U, self.clock.present(weight, m, v, last), m, v, last)


class RowAdamW(torch.optim.Optimizer):
    """AdamW whose step costs as much as the batch's rows, not as much as the tables.

    The rows of a batch are brought up to date when they are looked up, by what `CatchUp` says they
    missed; so all rows move as under dense AdamW, up to rounding. The tables themselves are up to
    date after `flush`, which must come before they are read otherwise: before evaluation,
    checkpoint and export. Flushing changes rounding, so a run that is to be repeated flushes at
    the same steps. A flush also comes after every 4,096 steps.

    While this optimiser lives, it serves the look-ups of its tables in training; `release` ends
    that. Row 0 stays zero.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        """Take groups of `tables` (`EmbeddingTable`), each with `lr` and `weight_decay`."""
        described = [dict(group) for group in groups]
        tables = [group.pop("tables") for group in described]
        for group, of_group in zip(described, tables, strict=True):
            group["params"] = [table.weight for table in of_group]
        super().__init__(described, {"lr": 1e-3, "weight_decay": 0.0})
        self._betas = betas
        self._epsilon = epsilon
        self._served: list[list[_ServedTable]] = []
        self._clocks: list[CatchUp] = []
        self._steps_since_flush = 0
        for of_group in tables:
            device = of_group[0].weight.device
            clock = CatchUp(betas, epsilon, _STEPS_BETWEEN_FLUSHES, device)
            self._clocks.append(clock)
            self._served.append([_ServedTable(table, clock) for table in of_group])
        for served in self._all():
            served.table.server = served

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the look-ups since the last step."""
        for served in self._all():
            served.lookups = []
            served.weight.grad = None

    def gradients(self) -> list[torch.Tensor]:
        """Return the leaves that hold this step's gradients, each row of a table in one of them."""
        leaves = []
        for served in self._all():
            if served.weight.grad is not None:
                raise RuntimeError(
                    "a gradient reached an embedding table past its look-ups, where row_adamw does "
                    "not see it; read the table by calling it, or use optimizer adamw"
                )
            served.merge_lookups()
            leaves += [lookup.live_UD for lookup in served.lookups]
        return leaves

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the rows that were looked up since `zero_grad`."""
        for group, clock, tables in zip(self.param_groups, self._clocks, self._served, strict=True):
            for served in tables:
                served.merge_lookups()
            clock.advance(group["lr"], group["weight_decay"])
            for served in tables:
                for lookup in served.lookups:
                    self._update(served, lookup, group)
                served.lookups = []

    def count_step(self) -> None:
        """Count the step that was taken, and flush where one is due.

        Apart from `step`, since a replayed CUDA graph does on the device what that does, alone.
        """
        self._steps_since_flush += 1
        if self._steps_since_flush == _STEPS_BETWEEN_FLUSHES:
            self.flush()

    def _update(self, served: _ServedTable, lookup: _Lookup, group: dict[str, Any]) -> None:
        row_U, weight, grad = lookup.row_U, lookup.live_UD.detach(), lookup.live_UD.grad
        if grad is None:
            return
        clock, (beta1, beta2) = served.clock, self._betas
        decay_m, decay_v = clock.moment_decays(lookup.last_U)
        m = lookup.m_UD.mul_(decay_m).add_(grad, alpha=1 - beta1)
        v = lookup.v_UD.mul_(decay_v).addcmul_(grad, grad, value=1 - beta2)
        # Tensors, not numbers: nothing here waits for the device, and a captured graph follows.
        rate = torch.as_tensor(group["lr"], dtype=torch.float64, device=weight.device)
        correction1, correction2 = clock.corrections
        per_move = correction1 / rate.clamp_min(1e-30)
        denominator = (
            v.sqrt()
            .mul_((per_move / correction2).to(v.dtype))
            .add_((per_move * self._epsilon).to(v.dtype))
        )
        kept = (1 - rate * group["weight_decay"]).to(weight.dtype)
        weight = (weight * kept).addcdiv_(m, denominator, value=-1)
        served.weight.index_copy_(0, row_U, weight)
        served.m.index_copy_(0, row_U, m)
        served.v.index_copy_(0, row_U, v)
        served.last.index_copy_(0, row_U, clock.step.expand(len(row_U)))

    @torch.no_grad()
    def flush(self) -> None:
        """Bring every row of every table up to date."""
        if self._steps_since_flush == 0:
            return
        for served in self._all():
            n_rows = max(1, _FLUSH_VALUES // served.weight.shape[1])
            parts = (t.split(n_rows) for t in (served.weight, served.m, served.v, served.last))
            for weight, m, v, last in zip(*parts, strict=True):
                decay_m, decay_v = served.clock.moment_decays(last)
                weight.copy_(served.clock.present(weight, m, v, last))
                m.mul_(decay_m)
                v.mul_(decay_v)
            served.last.zero_()
        for clock in self._clocks:
            clock.restart()
        self._steps_since_flush = 0

    def release(self) -> None:
        """Flush, and serve the tables no longer."""
        self.flush()
        for served in self._all():
            served.table.server = None

    def state_dict(self) -> dict[str, Any]:
        """Return moments and step count; raises `RuntimeError` where a flush is due."""
        if self._steps_since_flush:
            raise RuntimeError("flush before asking for the state: rows are not up to date")
        return {
            "moments": [{"m": served.m, "v": served.v} for served in self._all()],
            "total_steps": [clock.total_steps for clock in self._clocks],
            "rates": [group["lr"] for group in self.param_groups],
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`, for the same tables."""
        for served, moments in zip(self._all(), state_dict["moments"], strict=True):
            served.m.copy_(moments["m"])
            served.v.copy_(moments["v"])
        for clock, total_steps in zip(self._clocks, state_dict["total_steps"], strict=True):
            clock.total_steps.copy_(total_steps)
        for group, rate in zip(self.param_groups, state_dict["rates"], strict=True):
            group["lr"] = rate

    def _all(self) -> list[_ServedTable]:
        return [served for tables in self._served for served in tables]
