"""How far an encoder's vectors are from those that it would compute in float32."""

from collections.abc import Iterable, Mapping

import numpy as np


def parity_rows(n_rows: int, n_wanted: int) -> np.ndarray:
    """Return at most `n_wanted` positions, evenly spread over `n_rows`, to be encoded twice."""
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, n_wanted)).round().astype(np.int64))


def parity_notes(vectors: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return what a shard remembers of its parity: rows compared, sum and minimum of the cosine.

    `vectors` and `reference` are `(n, D)`, n at least 1, of the same contents.
    """
    both = np.asarray(vectors, np.float64), np.asarray(reference, np.float64)
    lengths = np.linalg.norm(both[0], axis=1) * np.linalg.norm(both[1], axis=1)
    cosine = (both[0] * both[1]).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return {
        "parity_n": float(len(cosine)),
        "parity_sum": float(cosine.sum()),
        "parity_min": float(cosine.min()),
    }


def parity(notes: Iterable[Mapping[str, object]]) -> dict[str, float] | None:
    """Return the cosine to float32 over the rows that any shard compared; None where none did."""
    compared = [note for note in notes if "parity_n" in note]
    if not compared:
        return None
    columns = {name: [float(str(note[name])) for note in compared] for name in _PARITY}
    n_rows = sum(columns["parity_n"])
    return {
        "compared": n_rows,
        "mean_cosine": sum(columns["parity_sum"]) / n_rows,
        "least_cosine": min(columns["parity_min"]),
    }


_PARITY = ("parity_n", "parity_sum", "parity_min")
