"""Encode titles with one and with two workers of Ray, and with Daft on two processes.

    python -m benchmarks.scale [--titles N] [--rounds N]

Every worker has one core and one thread and opens all-MiniLM-L6-v2 itself. `ours` and `peer` are
titles per second of two workers of Ray and of Daft's two processes, the median over rounds, from
the first call to the last vector; for ours that includes writing the vector store. Starting Ray is
left out. `efficiency` is the rate of two workers by twice that of one. `seconds_loading` is how
long one worker takes until its first title: two workers load at the same time, so the more titles,
the less that counts.
"""

import dataclasses
import json
import os
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import alternate, command_line, final_line, medians

if TYPE_CHECKING:
    from mmctr_pipeline.data.dataset import ItemTable

SIDES = ("one", "two", "daft")
BATCH_TOKENS = 1024


def distinct_titles(folder: Path, n: int) -> "ItemTable":
    """Return `n` items with distinct titles: those of a sample dataset, with numbers."""
    import pyarrow as pa

    from mmctr_pipeline.data.discovery import find_data
    from mmctr_pipeline.data.items import read_items
    from mmctr_pipeline.data.ragged import Ragged

    items = read_items(find_data(folder))
    titles = items.title.to_pylist()
    return dataclasses.replace(
        items,
        ids=np.arange(1, n + 1),
        item_id=np.arange(1, n + 1, dtype=np.int32),
        title=pa.array([f"{titles[row % len(titles)]} {row}" for row in range(n)]),
        tags=Ragged.from_lists([[1]] * n),
        likes_level=np.zeros(n, np.int8),
        views_level=np.zeros(n, np.int8),
    )


def with_ray(chosen: Namespace, n_workers: int) -> dict[str, float]:
    """Encode on Ray, as `text_embeddings` does with `compute: ray`."""
    import ray

    from mmctr_pipeline.encoders.config import TextEncoderConfig
    from mmctr_pipeline.encoders.store.vector_store import VectorStore
    from mmctr_pipeline.encoders.text.encode import encode_titles

    items = distinct_titles(chosen.data, chosen.titles)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=n_workers, num_gpus=0, include_dashboard=False, log_to_driver=False)
    config = TextEncoderConfig(compute="ray", batch_tokens=BATCH_TOKENS)
    with tempfile.TemporaryDirectory() as store:
        start = time.perf_counter()
        encoding = encode_titles(items, config, "cpu", VectorStore(Path(store)))
        seconds = time.perf_counter() - start
    ray.shutdown()
    np.save(chosen.data / "ours.npy", encoding.table.vectors)
    return {"titles_per_second": chosen.titles / seconds}


def with_daft(chosen: Namespace) -> dict[str, float]:
    """Encode with our encoder in two processes of Daft's native runner."""
    import daft

    @daft.cls(use_process=True, max_concurrency=2)
    class Encoder:
        def __init__(self) -> None:
            self.model = _model()

        @daft.method.batch(
            return_dtype=daft.DataType.fixed_size_list(daft.DataType.float32(), 384),
            batch_size=1024,
        )
        def encode(self, title: Any) -> list[np.ndarray]:
            return list(self.model.encode(title.to_pylist(), BATCH_TOKENS))

    items = distinct_titles(chosen.data, chosen.titles)
    frame = daft.from_pydict({"title": items.title.to_pylist()})
    encoder = Encoder()
    start = time.perf_counter()
    vectors = frame.select(encoder.encode(daft.col("title")).alias("vector")).to_arrow()
    seconds = time.perf_counter() - start
    found = vectors["vector"].combine_chunks().flatten().to_numpy().reshape(chosen.titles, -1)
    np.save(chosen.data / "daft.npy", found)
    return {"titles_per_second": chosen.titles / seconds}


def loading() -> dict[str, float]:
    """Open the model and encode one title in a new process."""
    start = time.perf_counter()
    _model().encode(["a title"], BATCH_TOKENS)
    return {"seconds_loading": time.perf_counter() - start}


def _model() -> Any:
    """Return the model as a worker opens it, with one thread."""
    import torch

    from mmctr_pipeline.encoders.locate import locate_text_model
    from mmctr_pipeline.encoders.text.models import SentenceModel
    from mmctr_pipeline.precision import dtype_for

    torch.set_num_threads(1)
    device = torch.device("cpu")
    located = locate_text_model("all-MiniLM-L6-v2")
    return SentenceModel(located, device, dtype_for("auto", device))


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = command_line(__doc__, [*SIDES, "loading"], rounds=1)
    parser.add_argument("--titles", type=int, default=40_960)
    parser.add_argument("--data", type=Path)
    chosen = parser.parse_args()
    if chosen.side:
        sides = {
            "one": lambda: with_ray(chosen, 1),
            "two": lambda: with_ray(chosen, 2),
            "daft": lambda: with_daft(chosen),
            "loading": loading,
        }
        print(json.dumps(sides[chosen.side]()))
        sys.stdout.flush()
        # Daft waits for the processes of its workers, which takes a while.
        os._exit(0)
    with tempfile.TemporaryDirectory() as scratch:
        from mmctr_pipeline.sample.config import SampleConfig
        from mmctr_pipeline.sample.write import generate_sample

        data = Path(scratch)
        generate_sample(SampleConfig.scaled(1, images=False), data)
        arguments = [f"--data={data}", f"--titles={chosen.titles}"]
        [loaded] = alternate("benchmarks.scale", ["loading"], 1, arguments)["loading"]
        results = alternate("benchmarks.scale", SIDES, chosen.rounds, arguments)
        ours, daft = (np.load(data / f"{side}.npy") for side in ("ours", "daft"))
    one, two, peer = (medians(results[side])["titles_per_second"] for side in SIDES)
    final_line(
        name="scale",
        ours=two,
        peer=peer,
        ratio=two / peer,
        unit="titles/s",
        one_worker=one,
        efficiency=two / (2 * one),
        seconds_loading=loaded["seconds_loading"],
        titles=chosen.titles,
        largest_difference=float(np.abs(ours - daft).max()),
    )


if __name__ == "__main__":
    main()
