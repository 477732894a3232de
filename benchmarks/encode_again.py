"""Measure the vector store's gain when a catalogue with 1 % changed titles is encoded again.

    python -m benchmarks.encode_again [--titles FILE] [--n N]

`peer` encodes everything, as if there were no store; both sides use the pipeline's `encode_titles`.
The time to load the model, measured by a call for one stored title, is subtracted from both. FILE
is an item_feature.parquet. If it has fewer than N titles, they are repeated with a number added. By
default the titles are those of a sample dataset.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.encode_text import read_titles
from benchmarks.harness import final_line
from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.encoders.config import TextEncoderConfig
from mmctr_pipeline.environment import share_cores


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--titles", type=Path)
    parser.add_argument("--n", type=int, default=20_000)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    share_cores()
    with tempfile.TemporaryDirectory() as scratch:
        found = read_titles(chosen.titles, chosen.n, Path(scratch))
        titles = list(found)
        number = 1
        while len(titles) < chosen.n:
            titles += [f"{title} {number}" for title in found]
            number += 1
        titles = titles[: chosen.n]
        store = Path(scratch) / "vectors"
        encode(titles[:1], store)
        load, _ = encode(titles[:1], store)
        first, n_first = encode(titles, store)
        rows = np.random.default_rng(1).choice(chosen.n, chosen.n // 100, replace=False)
        for row in rows:
            titles[row] = f"another title, number {row}: {titles[row]}"
        again, n_again = encode(titles, store)
    final_line(
        name="encode_again",
        ours=again - load,
        peer=first - load,
        ratio=(first - load) / (again - load),
        unit="s",
        share_of_first_run=(again - load) / (first - load),
        encoded_first=n_first,
        encoded_again=n_again,
        load_seconds=load,
        titles=chosen.n,
    )


def encode(titles: list[str], store: Path) -> tuple[float, int]:
    """Return the seconds that `encode_titles` took and how many titles it encoded."""
    from mmctr_pipeline.encoders.store.vector_store import VectorStore
    from mmctr_pipeline.encoders.text.encode import encode_titles

    n_items = len(titles)
    items = ItemTable(
        ids=np.arange(1, n_items + 1),
        item_id=np.arange(1, n_items + 1, dtype=np.int32),
        title=pa.array(titles, pa.string()),
        tags=Ragged.from_lists([[]] * n_items),
        likes_level=np.zeros(n_items, np.int8),
        views_level=np.zeros(n_items, np.int8),
    )
    start = time.perf_counter()
    encoding = encode_titles(items, TextEncoderConfig(), "cpu", VectorStore(store))
    return time.perf_counter() - start, encoding.table.provenance["counts"]["encoded"]


if __name__ == "__main__":
    main()
