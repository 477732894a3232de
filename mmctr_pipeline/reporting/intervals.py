"""Intervals of shares, for plots."""

import numpy as np


def wilson_interval(share: np.ndarray, n_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of Wilson's 95 % interval of shares, which is valid near 0 and 1 too.

    `share` is `(N,)` in [0, 1], `n_rows` the `(N,)` numbers of rows behind them. The ends are in
    [0, 1].
    """
    z = 1.96
    middle = (share + z**2 / (2 * n_rows)) / (1 + z**2 / n_rows)
    half = z * np.sqrt(share * (1 - share) / n_rows + (z / (2 * n_rows)) ** 2) / (1 + z**2 / n_rows)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
