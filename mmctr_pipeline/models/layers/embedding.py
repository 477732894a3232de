"""Embedding tables: untrained rows hold the mean, and an optimiser may answer look-ups."""

from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from torch import nn

RowKind = Literal["users", "items", "tags", "values"]


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


class ValueTable(nn.Embedding):
    """A table of rows by value, whose untrained rows hold the mean of the trained ones.

    `record_trained` sets which rows training reads. Whenever the table enters evaluation mode, and
    when it is saved in that mode, every other row except the padding is set to the mean of these
    rows, so that untrained values do not differ from each other. Before `record_trained` all rows
    count as trained.
    """

    untrained_K: torch.Tensor
    trained_R: torch.Tensor

    def __init__(
        self, n_rows: int, dim: int, padding_idx: int | None = None, rows_of: RowKind = "values"
    ) -> None:
        """Build a table; `rows_of` says what its rows stand for, for a warm start."""
        super().__init__(n_rows, dim, padding_idx=padding_idx)
        self.rows_of = rows_of
        # Not saved: a saved table holds the means.
        self.register_buffer("untrained_K", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.register_buffer("trained_R", torch.zeros(0), persistent=False)
        self._mean_D: torch.Tensor | None = None
        self.register_state_dict_pre_hook(_ready_to_read)

    def record_trained(self, rows: np.ndarray) -> None:
        """Take `rows`, `(N,)` integers in any order, as the ones that training reads."""
        is_trained_R = np.zeros(self.num_embeddings, bool)
        is_trained_R[rows[rows < self.num_embeddings]] = True
        is_padding_R = np.arange(self.num_embeddings) == self.padding_idx
        is_trained_R &= ~is_padding_R
        if not is_trained_R.any():
            return
        device, dtype = self.weight.device, self.weight.dtype
        untrained_K = np.flatnonzero(~is_trained_R & ~is_padding_R)
        self.untrained_K = torch.from_numpy(untrained_K).to(device)
        self.trained_R = torch.from_numpy(is_trained_R).to(device, dtype)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; evaluation mode makes all rows ready to be read."""
        super().train(mode)
        self._mean_D = None
        if not mode:
            _ready_to_read(self)
        return self

    def bring_up_to_date(self) -> None:
        """Apply the updates that rows have missed: none here, as every step updates all rows."""

    @torch.no_grad()
    def fill_untrained(self) -> None:
        """Set the untrained rows to the mean of the trained ones."""
        if len(self.untrained_K):
            mean_D = self.trained_R @ self.weight / self.trained_R.sum()
            rows_KD = mean_D.expand(len(self.untrained_K), -1)
            self.weight.index_copy_(0, self.untrained_K, rows_KD)

    def mean_beyond(self, values_ND: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
        """Return `values_ND`, the rows looked up for `ids_N`.

        In evaluation mode, the mean of the table replaces the rows of ids beyond the table.
        """
        if self.training:
            return values_ND
        if self._mean_D is None:
            self._mean_D = self.weight.detach()[1:].mean(0)
        return torch.where((ids_N < self.num_embeddings).unsqueeze(1), values_ND, self._mean_D)


class EmbeddingTable(ValueTable):
    """A table of rows by id, in which row 0 is padding: always zero and never trained.

    Ids beyond the table count as 0. The weights are those of `nn.Embedding(..., padding_idx=0)`.

    An optimiser may set `server`, which then answers look-ups in training mode: it gathers the few
    rows that a batch touches, so that the gradient has only these rows. Rows that no batch touched
    are out of date meanwhile. They are brought up to date whenever the table is read as a whole:
    when it enters evaluation mode, and when `state_dict` is called.
    """

    def __init__(self, n_rows: int, dim: int, rows_of: RowKind = "values") -> None:
        super().__init__(n_rows, dim, padding_idx=0, rows_of=rows_of)
        self.server: RowServer | None = None

    def bring_up_to_date(self) -> None:
        """Have the optimiser apply the updates that rows missed while no batch touched them."""
        if self.server is not None:
            self.server.flush()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return `(..., D)` for `ids` `(...) int64`."""
        rows = known_rows(ids, self.num_embeddings)
        if self.server is not None and self.training:
            return self.server.rows(rows.flatten()).view(*ids.shape, self.embedding_dim)
        return super().forward(rows)

    def mean(self, ids_UK: torch.Tensor) -> torch.Tensor:
        """Return the mean of the rows for each list of `ids_UK`, `(U, D)`.

        Padding (id 0) is left out; a list without ids has zeros.
        """
        n_ids_U = (ids_UK != 0).sum(1).clamp_min(1)
        return self(ids_UK).sum(1) / n_ids_U.unsqueeze(1)


def _ready_to_read(table: ValueTable, *_: Any) -> None:
    table.bring_up_to_date()
    if not table.training:
        table.fill_untrained()
