"""The programs of an export: one scores rows, the other the candidates of one user."""

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from mmctr_pipeline.calibration import CalibrationMap
from mmctr_pipeline.data.schemas import MAX_LEVEL
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, ItemFeatures

ROWS, CANDIDATES, COMPILED, TABLES = "model.pt2", "candidates.pt2", "compiled.pt2", "items.pt"

_TRACED_ROWS, _TRACED_POSITIONS = 100, 20
"""Sizes that a compiler may optimise for; any other size works."""


class ScoringProgram(nn.Module):
    """The module to export: it computes click probabilities.

    A row of padding and a spare position are added, so that the model never sees a batch of one
    row or without positions, which `torch.export` would treat as cases of their own.
    """

    def __init__(self, module: CtrModel, calibration: CalibrationMap | None) -> None:
        super().__init__()
        self.module, self._calibration = module, calibration

    def _probabilities(self, batch: Batch) -> torch.Tensor:
        """Return the probabilities of all rows but the last one, which is padding."""
        logits_B = self.module(batch)[:-1]
        if self._calibration is not None:
            logits_B = self._calibration(logits_B)
        return torch.sigmoid(logits_B).float()


class RowProgram(ScoringProgram):
    """Scores B rows, each with a user and a history of its own."""

    def forward(
        self,
        user: torch.Tensor,
        item: torch.Tensor,
        likes_level: torch.Tensor,
        views_level: torch.Tensor,
        history: torch.Tensor,
        offsets: torch.Tensor,
        tables: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return `(B,) float32`.

        Takes `(B,) int64` each, the items of all histories one after the other, `(T,) int64`,
        where each history begins, `(B + 1,) int64`, and the fields of `ItemFeatures`.
        """
        batch = Batch(
            user_id_B=_with_zero(user),
            item_id_B=_with_zero(item),
            likes_level_B=_with_zero(likes_level),
            views_level_B=_with_zero(views_level),
            history_T=_with_zero(history),
            history_offsets=torch.cat([offsets, offsets[-1:]]),
            items=ItemFeatures(**tables),
        )
        return self._probabilities(batch)


class CandidateProgram(ScoringProgram):
    """Scores C candidates of one user; what depends on the history alone is computed once."""

    def forward(
        self,
        user: torch.Tensor,
        item: torch.Tensor,
        likes_level: torch.Tensor,
        views_level: torch.Tensor,
        history: torch.Tensor,
        tables: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return `(C,) float32`.

        Takes the user, `() int64`, the candidates and their levels, `(C,) int64` each, the items of
        the history, `(L,) int64`, and the fields of `ItemFeatures`.
        """
        n_rows = item.shape[0] + 1
        # Counted, since the compiler takes a size for one that is never zero.
        n_positions = (history >= 0).sum()
        batch = Batch(
            user_id_B=user.expand(n_rows),
            item_id_B=_with_zero(item),
            likes_level_B=_with_zero(likes_level),
            views_level_B=_with_zero(views_level),
            history_T=_with_zero(history),
            history_offsets=torch.arange(2) * n_positions,
            items=ItemFeatures(**tables),
            history_row_B=torch.zeros(n_rows, dtype=torch.int64),
        )
        if not (self.module.shares_histories or self.module.shares_one_history):
            batch = dataclasses.replace(
                batch,
                history_T=_with_zero(history.repeat(n_rows)),
                history_offsets=torch.arange(n_rows + 1) * n_positions,
                history_row_B=None,
            )
        return self._probabilities(batch)


def _with_zero(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([values, values.new_zeros(1)])


def traced(program: ScoringProgram, tables: dict[str, torch.Tensor]) -> ExportedProgram:
    """Trace a program with symbolic numbers of rows and positions, and of items if possible.

    Raises `RuntimeError` or `UserError` if `torch.export` cannot trace the model.

    Parameters
    ----------
    program
        The program to trace.
    tables
        The fields of `ItemFeatures`.
    """
    program.eval().requires_grad_(False)
    inputs, row = example_inputs(tables, rows=isinstance(program, RowProgram)), Dim("rows", min=1)
    shapes: dict[str, Any] = {name: {0: row} for name in inputs}
    shapes["history"] = {0: Dim("positions")}
    shapes["tables"] = {name: {0: Dim.AUTO} for name in tables}
    if isinstance(program, RowProgram):
        shapes["offsets"] = {0: row + 1}
    else:
        shapes["user"] = {}
    with torch.no_grad():
        program(**inputs)  # models compute some means at the first call
        exported = torch.export.export(program, (), inputs, dynamic_shapes=shapes, strict=False)
    # They would be saved with the program, tables included.
    exported.example_inputs = None
    return exported


def example_inputs(tables: dict[str, torch.Tensor], rows: bool) -> dict[str, Any]:
    """Return inputs of a `RowProgram` (`rows`) or a `CandidateProgram`, in its order."""
    # The same tensor must not serve twice: its two sizes would count as equal.
    names = ("user", "item", "likes_level", "views_level")
    inputs: dict[str, Any] = {name: torch.arange(_TRACED_ROWS) % MAX_LEVEL for name in names}
    inputs["history"] = torch.arange(_TRACED_POSITIONS)
    if rows:
        inputs["offsets"] = torch.arange(_TRACED_ROWS + 1).clamp_max(_TRACED_POSITIONS)
    else:
        inputs["user"] = torch.tensor(0)
    return {**inputs, "tables": tables}
