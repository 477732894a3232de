"""Check that the storage folder can be written to and is large enough, by an estimate."""

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path

from mmctr_pipeline.environment import place_advice
from mmctr_pipeline.files.errors import WriteError
from mmctr_pipeline.files.writable import require_writable
from mmctr_pipeline.preflight.findings import Finding, found

FLOAT_BYTES = 4
CO_INTERACTION_BYTES = 80
"""Bytes of co-interactions in a model file for each train row (`docs/benchmarks.md`)."""

_MODEL_COPIES = 6
"""Tables that a training keeps on disk for each weight: the new model, and in the checkpoint the
weights, the best weights, the two moments of the optimiser, and the checkpoint that is written."""


def writable(storage: Path) -> Finding:
    """Return whether files can be written to the storage folder."""

    def examine() -> str:
        require_writable(storage, "MMCTR_STORAGE_DIR")
        return "can be written to"

    return found("storage", str(storage), examine)


def space(storage: Path, parts: Mapping[str, int]) -> Finding:
    """Return whether the storage folder has room for a run.

    Parameters
    ----------
    storage
        The folder.
    parts
        Estimated bytes by name.
    """
    needed = sum(parts.values())
    listing = ", ".join(f"{name} {_size(n_bytes)}" for name, n_bytes in parts.items() if n_bytes)

    def examine() -> str:
        free = shutil.disk_usage(storage).free
        text = f"a run writes about {_size(needed)} ({listing}), and {_size(free)} are free"
        if free < needed:
            advice = place_advice(storage, errno.ENOSPC, "MMCTR_STORAGE_DIR")
            raise WriteError(errno.ENOSPC, f"{text}. {advice}", str(storage))
        return text

    return found("space", str(storage), examine)


def estimate(
    storage: Path,
    n_items: int,
    dims: Mapping[str, int],
    table_bytes: int,
    n_weights: int,
    co_interaction_rows: int,
) -> dict[str, int]:
    """Return about how many bytes a run writes, by part.

    Parameters
    ----------
    storage
        The folder; vectors that its store already has are not counted again.
    n_items
        Number of items.
    dims
        Dimensions of the text, image and fused vectors.
    table_bytes
        Size of the input tables; the dataset is about as large.
    n_weights
        Number of weights of the model.
    co_interaction_rows
        Number of train rows if the model keeps co-interactions, else 0.
    """
    vectors = {name: n_items * dim * FLOAT_BYTES for name, dim in dims.items()}
    encoded = vectors.get("text", 0) + vectors.get("image", 0)
    stored = sum(path.stat().st_size for path in (storage / "vectors").glob("*/*.parquet"))
    return {
        # The store and the table of each modality, and the fused ones in both of their forms.
        "vectors": encoded + max(0, encoded - stored) + 2 * vectors.get("fused", 0),
        "dataset": table_bytes,
        "model and checkpoint": n_weights * FLOAT_BYTES * _MODEL_COPIES
        + co_interaction_rows * CO_INTERACTION_BYTES,
    }


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:,.1f} MB"
