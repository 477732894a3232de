"""Build tables of item vectors with their provenance, from an encoder or from a given column."""

import dataclasses
import logging
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from mmctr_pipeline.data.outliers import without_outliers
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.store.lookup import StoreResult
from mmctr_pipeline.encoders.store.parquet_files import Notes
from mmctr_pipeline.settings import Settings

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EncoderInfo:
    """An encoder as logs, the vector store and provenance name it.

    `name` and `source` are those of the located model, `weights_hash` is a SHA-256 (hex),
    `settings` a hash of the settings that its vectors depend on, and `precision` the dtype of its
    forward pass.
    """

    kind: str
    name: str
    source: str
    weights_hash: str
    settings: str
    precision: str
    device: str

    @property
    def identity(self) -> str:
        """A text that differs whenever the vectors may differ."""
        weights = self.weights_hash[:12]
        return f"{self.kind}:{self.name}:{weights}:{self.settings}:{self.precision}"

    def __str__(self) -> str:
        return f"{self.name} from {self.source}, {self.precision} on {self.device}"


def encoded_table(
    item_id: np.ndarray,
    rows: np.ndarray,
    result: StoreResult,
    encoder: EncoderInfo,
    config: Settings,
    counts: dict[str, Any],
    start: float,
) -> VectorTable:
    """Return one vector per item.

    Items without a vector in `result`, and items whose vector is an outlier, get zeros and
    `present` False.

    Parameters
    ----------
    item_id
        The ids of all items, `(N,)` ascending.
    rows
        The rows of `item_id` whose contents were requested, `(M,) int64`.
    result
        The vectors of these rows, in the same order.
    encoder
        The encoder; its `identity` becomes that of the table.
    config
        The settings to record.
    counts
        Counts to record beside those of items, encoded contents and reused contents.
    start
        The value of `time.monotonic` when encoding began.
    """
    vectors = np.zeros((len(item_id), result.vectors.shape[1]), dtype=np.float32)
    vectors[rows] = result.vectors
    present = np.zeros(len(item_id), dtype=bool)
    present[np.delete(rows, list(result.reasons))] = True
    encoded = {"items": len(item_id), "encoded": result.n_encoded, "reused": result.n_reused}
    provenance = {
        "encoder": config.to_mapping()["source"],
        "config": config.to_mapping(),
        "model_source": encoder.source,
        "weights_sha256": encoder.weights_hash,
        "device": encoder.device,
        "precision": encoder.precision,
        "parity": mean_parity(result.notes),
        "counts": {**encoded, **counts},
        "seconds": round(time.monotonic() - start, 3),
    }
    table = VectorTable(item_id, vectors, present, encoder.identity, provenance)
    return without_outliers(table, encoder.name)


def given_table(item_id: np.ndarray, given: VectorTable | None, column: str) -> VectorTable:
    """Return the given vectors for `item_id` (`(M,)` ascending).

    Items whose vector is missing or an outlier get zeros and `present` False. `given` comes from
    `data.items.read_given_vectors`. Raises `ValueError` if it is None, or if no item has a vector.
    """
    if given is None:
        raise ValueError(
            f"source is 'given' but no vectors were read. Fix: pass the vectors in column "
            f"{column!r} of item_feature or item_info"
        )
    table = given.aligned_to(item_id)
    n_given = int(table.present.sum())
    if n_given == 0:
        raise ValueError(
            f"column {column!r} holds {len(given.item_id):,} vectors but none for the "
            f"{len(item_id):,} items; compare the item_id columns of item_feature and item_info"
        )
    logger.info(f"{n_given:,} of {len(item_id):,} items have a vector in column {column}")
    counts = {"items": len(item_id), "given": n_given, "missing": len(item_id) - n_given}
    table = table.recording(encoder="given", column=column, counts=counts)
    return without_outliers(table, f"column {column}")


def parity_rows(n_rows: int, n_wanted: int) -> np.ndarray:
    """Return at most `n_wanted` evenly spaced positions in `n_rows`, to compare with float32."""
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, n_wanted)).round().astype(np.int64))


def parity_notes(vectors: np.ndarray, reference: np.ndarray) -> Notes:
    """Return a shard's notes on parity: rows compared, sum and minimum of the cosine.

    `vectors` and the float32 `reference` are `(n, D)`, n at least 1, of the same contents.
    """
    found, expected = np.asarray(vectors, np.float64), np.asarray(reference, np.float64)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = (found * expected).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return {
        "parity_n": float(len(cosine)),
        "parity_sum": float(cosine.sum()),
        "parity_min": float(cosine.min()),
    }


def mean_parity(notes: Iterable[Notes]) -> dict[str, float] | None:
    """Return mean and minimum cosine to float32 over all compared rows, None if there are none."""
    compared = [note for note in notes if "parity_n" in note]
    if not compared:
        return None
    n_rows = sum(note["parity_n"] for note in compared)
    return {
        "compared": n_rows,
        "mean_cosine": sum(note["parity_sum"] for note in compared) / n_rows,
        "least_cosine": min(note["parity_min"] for note in compared),
    }
