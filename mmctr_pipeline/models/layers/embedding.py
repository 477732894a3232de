"""Embedding tables that a row-wise optimiser can serve."""

from typing import Any, Protocol, Self

import torch
from torch import nn


def known_rows(ids: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Return `ids`, with ids beyond a table of `n_rows` rows replaced by 0."""
    return torch.where(ids < n_rows, ids, 0)


def distinct_rows(ids_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distinct values of `ids_N`, `(U,)`, and the position of each id in them, `(N,)`.

    On the CPU U is the number of distinct values. On other devices U equals N, with row 0 as
    filler, so that no shape depends on the data.
    """
    if ids_N.device.type == "cpu":
        row_U, slot_N = torch.unique(ids_N, return_inverse=True)
        return row_U, slot_N
    return padded_distinct_rows(ids_N)


def padded_distinct_rows(ids_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same as `distinct_rows`, but always N rows, with row 0 filling up the end."""
    sorted_N, order_N = ids_N.sort()
    is_first_N = torch.ones_like(sorted_N)
    is_first_N[1:] = sorted_N[1:] != sorted_N[:-1]
    sorted_slot_N = is_first_N.cumsum(0) - 1
    slot_N = torch.empty_like(order_N).scatter_(0, order_N, sorted_slot_N)
    row_N = torch.zeros_like(ids_N).scatter_(0, sorted_slot_N, sorted_N)
    return row_N, slot_N


class RowServer(Protocol):
    """Answers the look-ups of a table while a row-wise optimiser trains it."""

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the current rows for `ids` `(N,) int64`, `(N, D)`, and collect their gradients."""

    def flush(self) -> None:
        """Bring every row of the table up to date."""


class EmbeddingTable(nn.Embedding):
    """A table of rows by id, in which row 0 is padding: always zero and never trained.

    Ids beyond the table count as 0. The weights are those of `nn.Embedding(..., padding_idx=0)`.

    An optimiser may set `server`, which then answers look-ups in training mode: it gathers the few
    rows that a batch touches, so that their gradient is as small. Rows that no batch touched are
    out of date meanwhile. The table has them brought up to date whenever it is read as a whole,
    which is when it enters evaluation mode and when `state_dict` is called.
    """

    def __init__(self, n_rows: int, dim: int) -> None:
        super().__init__(n_rows, dim, padding_idx=0)
        self.server: RowServer | None = None
        self.register_state_dict_pre_hook(_bring_up_to_date)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; evaluation mode brings all rows up to date."""
        if not mode:
            _bring_up_to_date(self)
        return super().train(mode)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return `(..., D)` for `ids` `(...) int64`."""
        rows = known_rows(ids, self.num_embeddings)
        if self.server is not None and self.training:
            return self.server.rows(rows.flatten()).view(*ids.shape, self.embedding_dim)
        return super().forward(rows)


def _bring_up_to_date(table: EmbeddingTable, *_: Any) -> None:
    if table.server is not None:
        table.server.flush()
