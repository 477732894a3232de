"""The number format that encoders compute in, and how far its vectors are from float32's."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def dtype_for(precision: str, device: torch.device | str) -> torch.dtype:
    """Return the dtype that `precision` (auto, float32 or bfloat16) stands for on a device.

    `auto` is bfloat16 where the hardware multiplies in it, else float32: elsewhere bfloat16 is
    emulated, and slower.
    """
    if precision != "auto":
        return DTYPES[precision]
    return torch.bfloat16 if _multiplies_in_bfloat16(torch.device(device)) else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype of `DTYPES`, as identities show it."""
    return next(name for name, known in DTYPES.items() if known == dtype)


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


def _multiplies_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
