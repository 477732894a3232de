"""Softmax and attention pooling over ragged histories."""

import torch
from torch import nn


def rows_of_positions(offsets: torch.Tensor, n_positions: int) -> torch.Tensor:
    """Return the row of each of T positions, `(T,) int64`, for ragged `offsets` `(B + 1,)`."""
    rows_B = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(rows_B, offsets.diff(), output_size=n_positions)


def segment_softmax(
    scores_T: torch.Tensor, row_T: torch.Tensor, n_rows: int, keep_T: torch.Tensor
) -> torch.Tensor:
    """Softmax within each row of a ragged batch; positions not in `keep_T` get weight zero.

    `row_T` is each position's row. The weights of a row add up to one, or are all zero where the
    row keeps no position.
    """
    scores_T = scores_T.masked_fill(~keep_T, -torch.inf)
    # Shifting a row's scores leaves its softmax as it is, so the maximum needs no gradient. Rows
    # that keep nothing have no maximum; any finite number serves them.
    top_B = scores_T.new_full((n_rows,), -torch.inf)
    top_B = top_B.scatter_reduce(0, row_T, scores_T.detach(), "amax").clamp_min(
        torch.finfo(scores_T.dtype).min
    )
    raised_T = torch.exp(scores_T - top_B[row_T])
    total_B = raised_T.new_zeros(n_rows).index_add(0, row_T, raised_T)
    return raised_T / total_B[row_T].clamp_min(torch.finfo(scores_T.dtype).tiny)


class RaggedAttentionPooling(nn.Module):
    """Pools each row's positions by weights from a small network over the position alone.

    Linear(dim, hidden), tanh, Linear(hidden, 1), softmax over the row, weighted sum. A row without
    positions gives the zero vector.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden_dim)
        self.score = nn.Linear(hidden_dim, 1)

    def forward(
        self, values_TD: torch.Tensor, offsets: torch.Tensor, keep_T: torch.Tensor
    ) -> torch.Tensor:
        """Return `(B, D)`; row i pools `values_TD[offsets[i]:offsets[i + 1]]` where kept."""
        n_rows = len(offsets) - 1
        row_T = rows_of_positions(offsets, len(values_TD))
        scores_T = self.score(torch.tanh(self.hidden(values_TD))).squeeze(-1)
        weight_T = segment_softmax(scores_T, row_T, n_rows, keep_T)
        pooled_BD = values_TD.new_zeros(n_rows, values_TD.shape[1])
        return pooled_BD.index_add(0, row_T, values_TD * weight_T.unsqueeze(-1))
