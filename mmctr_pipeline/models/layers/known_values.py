"""Find the values that occur in train rows, and hide some of them to train the unknown row."""

import numpy as np
import torch

MIN_ROWS = 3
"""A level or tag that training reads fewer times than this counts as unknown."""


def held_often(values: np.ndarray, n_values: int, min_rows: int = MIN_ROWS) -> torch.Tensor:
    """Return which values below `n_values` occur at least `min_rows` times, `(V,) bool`.

    `values` are integers from 0, of any shape.
    """
    counts_V = np.bincount(values.ravel(), minlength=n_values)[:n_values]
    return torch.from_numpy(counts_V >= min_rows)


def is_known(values: torch.Tensor, known_V: torch.Tensor, hidden_rate: float = 0.0) -> torch.Tensor:
    """Return which `values` are known, as bool; a random share `hidden_rate` of these is hidden.

    `values` are int64 of any shape; those beyond `known_V`, `(V,) bool`, are unknown. Hidden values
    count as unknown.
    """
    is_within = values < known_V.shape[0]
    found = is_within & known_V[torch.where(is_within, values, 0)]
    if hidden_rate > 0:
        found &= torch.rand(values.shape, device=values.device) >= hidden_rate
    return found
