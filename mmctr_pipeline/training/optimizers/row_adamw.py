"""AdamW over embedding tables that touches only the rows of the batch."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from mmctr_pipeline.models.batch import gathered
from mmctr_pipeline.models.layers.embedding import EmbeddingTable, distinct_rows
from mmctr_pipeline.training.optimizers.catch_up import BETA1, BETA2, EPSILON, CatchUp
from mmctr_pipeline.training.ranks import Ranks, RowGradients

_STEPS_BETWEEN_FLUSHES = 4096
_FLUSH_VALUES = 1 << 22
"""Weights that a flush updates at a time, which keeps its temporary arrays small."""


@dataclasses.dataclass(frozen=True)
class _Lookup:
    """Distinct rows `row_U` of one look-up; the leaf `live_UD` collects their gradient.

    `m_UD` and `v_UD` are the rows' moments as of `last_U`, the steps that last updated the rows.
    """

    row_U: torch.Tensor
    live_UD: torch.Tensor
    m_UD: torch.Tensor
    v_UD: torch.Tensor
    last_U: torch.Tensor

    @property
    def gradient(self) -> torch.Tensor:
        """Gradient of the rows, `(U, D)`; zeros if the loss did not depend on them."""
        grad = self.live_UD.grad
        return torch.zeros_like(self.live_UD) if grad is None else grad


class _ServedTable:
    """Serves one table's look-ups (see `RowServer`) and updates its rows.

    `state` is weight, first moment and second moment, `(R, D)` each, and the step that last updated
    each row, `(R,) int64`.
    """

    def __init__(
        self, table: EmbeddingTable, group: dict[str, Any], flush: Callable[[], None]
    ) -> None:
        self.table, self.flush = table, flush
        self._group, self._clock = group, group["clock"]
        weight = table.weight
        last = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
        self.state = (weight, torch.zeros_like(weight), torch.zeros_like(weight), last)
        self.lookups: list[_Lookup] = []

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows for `ids` as dense AdamW would have them now."""
        row_U, slot_N = distinct_rows(ids)
        lookup = self._look_up(row_U)
        if torch.is_grad_enabled():
            lookup.live_UD.requires_grad_()
            self.lookups.append(lookup)
        return gathered(lookup.live_UD, slot_N)

    def merge_lookups(self) -> None:
        """Merge all look-ups into one, so that each row has a single gradient and padding none."""
        if len(self.lookups) > 1:
            row_U, slot_N = distinct_rows(torch.cat([lookup.row_U for lookup in self.lookups]))
            merged = self._look_up(row_U)
            grads = torch.cat([lookup.gradient for lookup in self.lookups])
            merged.live_UD.grad = torch.zeros_like(merged.live_UD).index_add_(0, slot_N, grads)
            self.lookups = [merged]
        for lookup in self.lookups:
            if (grad := lookup.live_UD.grad) is not None:
                grad.mul_((lookup.row_U != 0).to(grad.dtype).unsqueeze(1))

    @property
    def row_gradients(self) -> RowGradients:
        """Rows and gradients of this step, after `merge_lookups`."""
        if not self.lookups:
            weight = self.table.weight
            return weight.new_empty(0, dtype=torch.int64), weight.new_empty(0, weight.shape[1])
        (lookup,) = self.lookups
        return lookup.row_U, lookup.gradient

    @torch.no_grad()
    def take_mean(self, found: Sequence[RowGradients]) -> None:
        """Replace the step's rows and gradients by the mean over the ranks that `found` lists."""
        row_U, slot_N = distinct_rows(torch.cat([rows for rows, _ in found]))
        merged = self._look_up(row_U)
        total_UD, slots = torch.zeros_like(merged.live_UD), slot_N.split([len(r) for r, _ in found])
        # One rank after the other: the order of additions must be the same on every rank, or their
        # tables would drift apart.
        for slot_U, (_, grads) in zip(slots, found, strict=True):
            total_UD.index_add_(0, slot_U, grads)
        merged.live_UD.grad = total_UD / len(found)
        self.lookups = [merged]

    @torch.no_grad()
    def _look_up(self, row_U: torch.Tensor) -> _Lookup:
        weight, m, v, last = (tensor.index_select(0, row_U) for tensor in self.state)
        return _Lookup(row_U, self._clock.present(weight, m, v, last), m, v, last)

    def update(self) -> None:
        """Take an AdamW step on the rows that were looked up, and forget the look-ups."""
        clock = self._clock
        for lookup in self.lookups:
            weight, grad = lookup.live_UD.detach(), lookup.live_UD.grad
            if grad is None:
                continue
            decay_m, decay_v = clock.moment_decays(lookup.last_U)
            m = lookup.m_UD.mul_(decay_m).add_(grad, alpha=1 - BETA1)
            v = lookup.v_UD.mul_(decay_v).addcmul_(grad, grad, value=1 - BETA2)
            # Tensors instead of numbers, so that nothing waits for the device and a CUDA graph can
            # capture this.
            rate = torch.as_tensor(self._group["lr"], dtype=torch.float64, device=weight.device)
            correction1, correction2 = clock.corrections
            per_move = correction1 / rate.clamp_min(1e-30)
            denominator = (
                v.sqrt()
                .mul_((per_move / correction2).to(v.dtype))
                .add_((per_move * EPSILON).to(v.dtype))
            )
            remaining = (1 - rate * self._group["weight_decay"]).to(weight.dtype)
            weight = (weight * remaining).addcdiv_(m, denominator, value=-1)
            updated = (weight, m, v, clock.step.expand(len(weight)))
            for tensor, rows in zip(self.state, updated, strict=True):
                tensor.index_copy_(0, lookup.row_U, rows)
        self.lookups = []

    def catch_up(self) -> None:
        """Bring every row up to date, as of the clock's present step."""
        weight, *_, last = self.state
        n_rows = max(1, _FLUSH_VALUES // weight.shape[1])
        parts = (tensor.split(n_rows) for tensor in self.state)
        for part_weight, m, v, part_last in zip(*parts, strict=True):
            decay_m, decay_v = self._clock.moment_decays(part_last)
            part_weight.copy_(self._clock.present(part_weight, m, v, part_last))
            m.mul_(decay_m)
            v.mul_(decay_v)
        last.zero_()


class RowAdamW(torch.optim.Optimizer):
    """AdamW whose step costs as much as the rows of the batch, not as much as the whole tables.

    When rows are looked up, they first receive the updates that they missed, which `CatchUp`
    computes. All rows therefore move as under dense AdamW, up to rounding. All rows are brought up
    to date when a table is read as a whole (see `EmbeddingTable`), before this optimiser's state is
    saved, and every 4,096 steps. Such a flush changes rounding, so a run must flush at the same
    steps to be reproducible.

    The optimiser serves the look-ups of its tables in training mode until `release` is called. Row
    0 stays zero.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Take groups of `tables` (`EmbeddingTable`), each with `lr` and `weight_decay`."""
        groups = [{**g, "params": [table.weight for table in g["tables"]]} for g in groups]
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.0})
        for group in self.param_groups:
            device = group["params"][0].device
            group["clock"] = CatchUp(_STEPS_BETWEEN_FLUSHES, device)
        self._served = [
            _ServedTable(table, group, self.flush)
            for group in self.param_groups
            for table in group["tables"]
        ]
        for served in self._served:
            served.table.server = served
        self._steps_since_flush = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the look-ups since the last step."""
        for served in self._served:
            served.lookups = []
            served.table.weight.grad = None

    def gradients(self) -> list[torch.Tensor]:
        """Return the leaves that hold this step's gradients; each row occurs in one leaf."""
        for served in self._served:
            if served.table.weight.grad is not None:
                raise RuntimeError(
                    "an embedding table received a gradient that did not come from a look-up, and "
                    "row_adamw would ignore it; call the table instead of using its weight, or set "
                    "optimizer to adamw"
                )
            served.merge_lookups()
        return [lookup.live_UD for served in self._served for lookup in served.lookups]

    def share_gradients(self, ranks: Ranks) -> None:
        """Merge the rows and gradients of all ranks; call it after the backward pass."""
        self.gradients()
        own = [served.row_gradients for served in self._served]
        for served, found in zip(self._served, ranks.all_rows(own), strict=True):
            served.take_mean(found)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the rows that were looked up since `zero_grad`; `closure` is ignored."""
        self.gradients()
        for group in self.param_groups:
            group["clock"].advance(group["lr"], group["weight_decay"])
        for served in self._served:
            served.update()

    def count_step(self) -> None:
        """Count the step that was taken, and flush if one is due.

        This is separate from `step` because a replayed CUDA graph repeats only the device's work.
        """
        self._steps_since_flush += 1
        if self._steps_since_flush == _STEPS_BETWEEN_FLUSHES:
            self.flush()

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        """Return all tensors that `step` changes, except the weights, by their kind."""
        clocks = [vars(group["clock"]).values() for group in self.param_groups]
        return {
            "first moments of rows": [served.state[1] for served in self._served],
            "second moments of rows": [served.state[2] for served in self._served],
            "last updates of rows": [served.state[3] for served in self._served],
            "clocks": [value for clock in clocks for value in clock if torch.is_tensor(value)],
        }

    @torch.no_grad()
    def flush(self) -> None:
        """Bring every row of every table up to date."""
        if self._steps_since_flush == 0:
            return
        for served in self._served:
            served.catch_up()
        for group in self.param_groups:
            group["clock"].restart()
        self._steps_since_flush = 0

    def release(self) -> None:
        """Flush, and stop serving the tables."""
        self.flush()
        for served in self._served:
            served.table.server = None

    def state_dict(self) -> dict[str, Any]:
        """Flush, and return the moments of each table, and steps and rate of each group."""
        self.flush()
        return {
            "moments": [served.state[1:3] for served in self._served],
            "groups": [(group["clock"].total_steps, group["lr"]) for group in self.param_groups],
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, for the same tables."""
        for served, moments in zip(self._served, state_dict["moments"], strict=True):
            for tensor, saved in zip(served.state[1:3], moments, strict=True):
                tensor.copy_(saved)
        for group, saved in zip(self.param_groups, state_dict["groups"], strict=True):
            total_steps, group["lr"] = saved
            group["clock"].total_steps.copy_(total_steps)
