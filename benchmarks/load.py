"""Load the interactions: ours against the dense loading of the challenge's FuxiCTR baseline.

Ours checks every value, strips the padding and stores each history once. The peer reads the same
files with pandas and keeps the padded histories as one dense int64 array per split, like the
baseline's loader; it checks nothing.

    python -m benchmarks.load [--full | --scale S] [--data FOLDER]

Without a folder, the benchmark generates a sample dataset without images. With `--full` this has
3,600,000 train rows, and each side reads it once. No side can be faster than decoding the files:
`floor_seconds` is the time that pyarrow takes to read the same columns batch by batch and keep
nothing.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import alternate, command_line, final_line, medians, peak_memory_mb
from mmctr_pipeline.data.discovery import DataLayout, find_data
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample

Load = Callable[[DataLayout], Any]
FULL_SCALE = 90.0


def ours() -> Load:
    """Build the ragged dataset."""
    from mmctr_pipeline.data.build import build_dataset

    return build_dataset


def peer() -> Load:
    """Read with pandas and stack every history into a dense array."""
    import numpy as np
    import pandas as pd

    def load(layout: DataLayout) -> list[np.ndarray]:
        arrays = []
        for path in (layout.train, layout.valid, layout.test):
            frame = pd.read_parquet(path)
            arrays += [frame[name].to_numpy() for name in frame.columns if name != "item_seq"]
            arrays.append(np.array(frame["item_seq"].to_list()))
        return arrays

    return load


def floor() -> Load:
    """Decode the columns and discard them."""
    import pyarrow.parquet as pq

    def load(layout: DataLayout) -> int:
        n_rows = 0
        for path in (layout.train, layout.valid, layout.test):
            with pq.ParquetFile(path) as file:
                n_rows += sum(map(len, file.iter_batches()))
        return n_rows

    return load


SIDES = {"ours": ours, "peer": peer, "floor": floor}


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = command_line(__doc__, list(SIDES), rounds=3)
    parser.add_argument("--data", type=Path)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, default=15.0)
    size.add_argument("--full", action="store_const", const=FULL_SCALE, dest="scale")
    parser.set_defaults(rounds=None)
    chosen = parser.parse_args()
    n_rounds = chosen.rounds or (1 if chosen.scale >= FULL_SCALE else 3)
    if chosen.side:
        layout = find_data(chosen.data)
        load = SIDES[chosen.side]()
        start = time.perf_counter()
        loaded = load(layout)
        seconds = time.perf_counter() - start
        del loaded
        print(json.dumps({"seconds": seconds, "peak_mb": peak_memory_mb()}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = chosen.data or Path(scratch)
        if chosen.data is None:
            generate_sample(SampleConfig.scaled(chosen.scale, images=False), data)
        n_rows = _n_rows(find_data(data))
        results = alternate("benchmarks.load", list(SIDES), n_rounds, ["--data", str(data)])
    sides = {side: medians(rounds) for side, rounds in results.items()}
    final_line(
        name="load",
        ours=n_rows / sides["ours"]["seconds"],
        peer=n_rows / sides["peer"]["seconds"],
        ratio=sides["peer"]["seconds"] / sides["ours"]["seconds"],
        unit="rows/s",
        rows=n_rows,
        ours_peak_mb=sides["ours"]["peak_mb"],
        peer_peak_mb=sides["peer"]["peak_mb"],
        memory_ratio=sides["peer"]["peak_mb"] / sides["ours"]["peak_mb"],
        floor_seconds=sides["floor"]["seconds"],
        ours_seconds=sides["ours"]["seconds"],
        peer_seconds=sides["peer"]["seconds"],
    )


def _n_rows(layout: DataLayout) -> int:
    import pyarrow.parquet as pq

    paths = (layout.train, layout.valid, layout.test)
    return sum(pq.read_metadata(path).num_rows for path in paths)


if __name__ == "__main__":
    main()
