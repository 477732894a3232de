"""Embedding tables."""

import torch


def known_rows(ids: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Return `ids` with those beyond a table of `n_rows` rows replaced by row 0."""
    return torch.where(ids < n_rows, ids, 0)
