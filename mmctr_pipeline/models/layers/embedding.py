"""Embedding tables whose rows an optimiser may hand out itself."""

from typing import Protocol

import torch
from torch import nn


def known_rows(ids: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Return `ids` with those beyond a table of `n_rows` rows replaced by row 0."""
    return torch.where(ids < n_rows, ids, 0)


def distinct_rows(ids_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distinct values of `ids_N`, `(U,)`, and which of them each id is, `(N,)`.

    On other devices than the CPU U is N, filled up with row 0, so that no shape depends on data.
    """
    if ids_N.device.type == "cpu":
        row_U, slot_N = torch.unique(ids_N, return_inverse=True)
        return row_U, slot_N
    return padded_distinct_rows(ids_N)


def padded_distinct_rows(ids_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `distinct_rows`, but N distinct rows, the spare ones at the end being row 0."""
    sorted_N, order_N = ids_N.sort()
    is_first_N = torch.ones_like(sorted_N)
    is_first_N[1:] = sorted_N[1:] != sorted_N[:-1]
    slot_of_sorted_N = is_first_N.cumsum(0) - 1
    slot_N = torch.empty_like(order_N).scatter_(0, order_N, slot_of_sorted_N)
    row_N = torch.zeros_like(ids_N).scatter_(0, slot_of_sorted_N, sorted_N)
    return row_N, slot_N


class RowServer(Protocol):
    """What stands between a table and its look-ups while a sparse-row optimiser trains it."""

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the current rows of `ids` `(N,) int64`, `(N, D)`, so that gradients reach it."""


class EmbeddingTable(nn.Embedding):
    """A table of rows by id, row 0 being padding: always zero, never trained.

    Ids beyond the table count as 0. Same weights as `nn.Embedding(..., padding_idx=0)`. In
    training, look-ups go to `server` where an optimiser has set one: it gathers the few rows that
    a batch touches, whose gradient is as small as they are.
    """

    def __init__(self, n_rows: int, dim: int) -> None:
        super().__init__(n_rows, dim, padding_idx=0)
        self.server: RowServer | None = None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return `(..., D)` for `ids` `(...) int64`."""
        rows = known_rows(ids, self.num_embeddings)
        if self.server is not None and self.training:
            return self.server.rows(rows.flatten()).view(*ids.shape, self.embedding_dim)
        return super().forward(rows)
