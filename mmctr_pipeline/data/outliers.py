"""Find vectors whose norm is far from the norms of the others, and treat them as missing.

One vector of norm 1e6 among vectors of norm 1 decides the mean, the scale and the first principal
component of the whole table. Such a vector is an error of the program that wrote it, so its item is
treated as an item without this modality.
"""

import dataclasses
import logging
from typing import Any

import numpy as np

from mmctr_pipeline.data.vectors import VectorTable

logger = logging.getLogger(__name__)

LEAST_FACTOR = 30.0
"""A norm within this factor of the median norm is never an outlier."""

DEVIATIONS = 12.0
"""A norm is never an outlier if its logarithm is within this many robust standard deviations of
that of the median norm."""

_MOST_NAMED = 5
_BLOCK_ROWS = 8192


@dataclasses.dataclass(frozen=True)
class Outliers:
    """Rows of a table with outlying vectors, `(K,) int64`, their norms, and the median norm."""

    rows: np.ndarray
    norms: np.ndarray
    median: float


def find_outliers(table: VectorTable) -> Outliers:
    """Find the present vectors that are far longer or far shorter than the others.

    The norm of an outlier differs from the median norm by a factor of more than `LEAST_FACTOR`. Its
    logarithm also differs from that of the median by more than `DEVIATIONS` robust standard
    deviations (1.4826 times the median absolute deviation), so that heavy tails are kept. Norms
    that are zero or not finite are not outliers: the check `finite_norms` reports them.
    """
    norms = _norms(table)
    rows = np.flatnonzero(table.present & (norms > 0) & np.isfinite(norms))
    if not len(rows):
        return Outliers(rows, norms[rows], 0.0)
    log_norms = np.log(norms[rows])
    median = np.median(log_norms)
    distances = np.abs(log_norms - median)
    deviation = 1.4826 * np.median(distances)
    rows = rows[distances > max(np.log(LEAST_FACTOR), DEVIATIONS * deviation)]
    return Outliers(rows, norms[rows], float(np.exp(median)))


def without_outliers(table: VectorTable, source: str) -> VectorTable:
    """Return the table with its outliers masked: their vectors are zero and not present.

    In the provenance, `counts.outliers` is their number and `outliers` names the first ones. A
    warning has both, and `source`, the name of the encoder or column. A table without outliers
    keeps its arrays.
    """
    found = find_outliers(table)
    n_found, counts = len(found.rows), table.provenance.get("counts", {})
    named = named_outliers(table, found)
    recorded = table.recording(
        counts={**counts, "outliers": counts.get("outliers", 0) + n_found},
        outliers=[*table.provenance.get("outliers", []), *named][:_MOST_NAMED],
    )
    if not n_found:
        return recorded
    logger.warning(
        f"{n_found:,} of {int(table.present.sum()):,} vectors of {source} are masked, as if the "
        f"items had none. Their norms are far from the median norm {found.median:.3g}: "
        f"{described(named)}. Fix: correct them if they come with the data (source: given), else "
        "check the encoder's weights"
    )
    vectors, present = table.vectors.copy(), table.present.copy()
    vectors[found.rows], present[found.rows] = 0, False
    return dataclasses.replace(recorded, vectors=vectors, present=present)


def named_outliers(table: VectorTable, found: Outliers) -> list[dict[str, Any]]:
    """Return item, norm and median norm of the first outliers, JSON-serialisable."""
    items = table.item_id[found.rows[:_MOST_NAMED]].tolist()
    norms = found.norms[:_MOST_NAMED].tolist()
    return [
        {"item_id": item, "norm": norm, "median_norm": found.median}
        for item, norm in zip(items, norms, strict=True)
    ]


def described(named: list[dict[str, Any]]) -> str:
    """Return what `named_outliers` returned as text: each item with its norm."""
    return ", ".join(f"item {outlier['item_id']} ({outlier['norm']:.3g})" for outlier in named)


def _norms(table: VectorTable) -> np.ndarray:
    """Return the norm of every vector, `(N,) float64`; squares of float32 fit into float64."""
    norms = np.empty(len(table.vectors))
    for begin in range(0, len(norms), _BLOCK_ROWS):
        block = table.vectors[begin : begin + _BLOCK_ROWS].astype(np.float64)
        norms[begin : begin + _BLOCK_ROWS] = np.sqrt(np.einsum("nd,nd->n", block, block))
    return norms
